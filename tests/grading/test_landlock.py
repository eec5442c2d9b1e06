"""Rules on files for the mode `limits`: what each kernel is asked for, what happens without Landlock."""

import os

import pytest

from hybrid_lora.common.errors import UserError
from hybrid_lora.grading import code, landlock, sandbox, seccomp

PROGRAM = "def f(n):\n    open('own', 'w').write(str(n))\n    return 2 * int(open('own').read())\n"
TESTS = {"prompt": "", "test": "def check(candidate):\n    assert candidate(2) == 4\n", "entry_point": "f"}


@pytest.mark.parametrize(
    ("version", "bits", "network", "scoped"),
    [(1, 13, 0, 0), (2, 14, 0, 0), (3, 15, 0, 0), (4, 15, 3, 0), (5, 16, 3, 0), (9, 16, 3, 3)],
)
def test_a_kernel_is_asked_for_what_it_knows(monkeypatch, version, bits, network, scoped):
    monkeypatch.setattr(landlock, "version", lambda: version)
    rules = landlock.rules(["/usr", "/no/such/folder", "/etc/ld.so.cache"], ".")
    assert rules["handled"] == ((1 << bits) - 1, network, scoped)
    rights = dict(rules["paths"])
    assert rights["/usr"] == landlock.READ and rights["."] == (1 << bits) - 2  # all but execute
    assert "/no/such/folder" not in rights
    assert not rights.get("/etc/ld.so.cache", 0) & 8  # a file has no entries to list: the kernel refuses such a rule


def test_without_landlock_programs_are_graded_all_the_same(monkeypatch):
    assert code.grade_many([code.job(PROGRAM, TESTS)], "limits", 20, 512)[0].correct is True
    monkeypatch.setattr(landlock, "version", lambda: 0)
    assert sandbox.own_files("limits") is None
    assert code.grade_many([code.job(PROGRAM, TESTS)], "limits", 20, 512)[0].correct is True


def test_bubblewrap_needs_no_rules():
    assert sandbox.own_files("bubblewrap") is None


def test_limits_are_refused_where_there_is_no_filter(monkeypatch):
    monkeypatch.setattr(seccomp.platform, "machine", lambda: "riscv64")
    with pytest.raises(UserError, match=r"grading\.sandbox: limits: .*filter"):
        sandbox.choose("limits")


def test_the_scratch_folder_is_removed_whatever_is_in_it(tmp_path, monkeypatch):
    monkeypatch.setattr(sandbox.tempfile, "tempdir", str(tmp_path))
    text = (
        "import os\nopen('f', 'w').close()\nos.mkdir('closed', 0)\nfor _ in range(2000):\n    os.mkdir('d')\n    os.chdir('d')\n"
    )
    result = sandbox.run(["-c", text], b"", "limits", 30)
    assert result.status == 0 or result.overflow == "files"  # too deep to be looked into, where it takes that long
    assert os.listdir(tmp_path) == []
