"""`rollouts: vllm` with `mode: server`, as far as a CPU goes: TRL gives weights to a server over NCCL alone, from a GPU.

Skipped where vLLM is not installed; on a CPU `make test-vllm ARGS=tests/objectives/test_vllm_server.py` has its CPU build.
"""

import socket

import pytest
import vllm_here

pytest.importorskip("vllm", reason="vLLM is not installed; on a CPU: make test-vllm")

import rl_runs

from hybrid_lora.common.errors import UserError
from hybrid_lora.objectives import rl, vllm_sync


def test_a_server_that_does_not_answer_is_one_line(tmp_path, model_folder, corpus_files, monkeypatch):
    arguments = rl._engine
    monkeypatch.setattr(rl, "_engine", lambda chosen: arguments(chosen) | {"vllm_server_timeout": 1})
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"http://127.0.0.1:{free.getsockname()[1]}"
    engine = vllm_here.ENGINE | {"mode": "server", "server": address}
    with pytest.raises(UserError, match=rf"^objectives\.\*\.vllm\.server: {address} is of no use: .*can't be reached") as error:
        rl_runs.build(model_folder, corpus_files[0], tmp_path, rollouts="vllm", vllm=engine)
    assert "\n" not in str(error.value)


def test_other_errors_stay_what_they_are():
    with pytest.raises(RuntimeError, match="of training"), vllm_sync.reached({"rollouts": "transformers"}):
        raise RuntimeError("of training")
