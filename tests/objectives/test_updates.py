"""Which completions an update holds does not depend on the number of processes; every update sees every group."""

import torch

from hybrid_lora.objectives.updates import update_order


def test_every_completion_once_and_one_of_each_block_in_each_update():
    order = update_order(24, 4, seed=1)
    assert sorted(order.tolist()) == list(range(24))
    for update in order.reshape(4, 6):
        assert sorted(i // 4 for i in update.tolist()) == list(range(6))
    assert not torch.equal(order, update_order(24, 4, seed=2))
    assert update_order(6, 1, seed=1).tolist() == list(range(6))


def test_processes_share_what_one_process_has():
    whole = update_order(24, 4, seed=3).reshape(4, 6)
    for processes in (2, 3):
        rows = 24 // processes
        shares = [update_order(rows, 4, 3, rank * rows).reshape(4, -1) + rank * rows for rank in range(processes)]
        for update, parts in zip(whole, zip(*shares, strict=True), strict=True):
            assert sorted(update.tolist()) == sorted(torch.cat(parts).tolist())
