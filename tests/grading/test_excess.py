"""What a program has too much of is seen from outside: threads, files, bytes in a folder, names that cannot be looked at."""

import subprocess
import sys

import pytest

from hybrid_lora.grading import asserts, excess

THREADS = """
import sys, threading
stop = threading.Event()
for _ in range(int(sys.argv[1])): threading.Thread(target=stop.wait, daemon=True).start()
print(flush=True)
sys.stdin.read()
"""


@pytest.mark.parametrize(("count", "expected"), [(10, None), (excess.THREADS + 5, "threads")])
def test_threads(count, expected, tmp_path):
    command = [sys.executable, "-c", THREADS, str(count)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        process.stdout.readline()
        assert excess.found(process.pid, tmp_path) == expected


def test_files_and_bytes(tmp_path):
    (tmp_path / "a" / "b").mkdir(parents=True)
    (tmp_path / "a" / "b" / "small").write_bytes(bytes(1000))
    with open(tmp_path / "hole", "wb") as file:
        file.truncate(1 << 40)
    (tmp_path / "circle").symlink_to(tmp_path)
    assert excess.found(2**22 + 1, tmp_path) is None
    with open(tmp_path / "a" / "large", "wb") as file:
        file.write(b"x" * (excess.BYTES + 1))
    assert excess.found(2**22 + 1, tmp_path) == "files"
    (tmp_path / "a" / "large").unlink()
    for i in range(excess.FILES):
        (tmp_path / "a" / "b" / str(i)).touch()
    assert excess.found(2**22 + 1, tmp_path) == "files"


def test_a_folder_that_cannot_be_looked_into_is_too_much(tmp_path):
    folder = tmp_path
    while len(str(folder)) < 4_500:  # beyond the longest path
        folder = folder / ("x" * 200)
    script = "import os\nfor _ in range(25):\n    os.mkdir('x' * 200)\n    os.chdir('x' * 200)"
    subprocess.run([sys.executable, "-c", script], cwd=tmp_path, check=True)
    assert excess.found(2**22 + 1, tmp_path) == "files"
    subprocess.run(["rm", "-rf", str(tmp_path / ("x" * 200))], check=True)


@pytest.mark.parametrize("call", ["set(candidate(1)) == {1}", "frozenset(candidate(1)) == {1}", "dict(candidate(1)) == {1: 1}"])
def test_colliding_values_do_not_hold_up_the_comparison(call):
    plan = asserts.plan(f"def check(candidate):\n    assert {call}\n")
    modulus = 2**61 - 1
    pairs = "dict" in call
    fine = [[1, 1]] if pairs else [1, 1, 1]
    colliding = [[k * modulus, 1] if pairs else k * modulus for k in range(1, 50_000)]
    assert asserts.first_failure(plan.checks, [fine]) is None
    assert asserts.first_failure(plan.checks, [colliding]) == 1
    same = [[1, 1] if pairs else 1] * 5_000
    assert asserts.first_failure(plan.checks, [same]) is None
