"""How processes share rows and gather them."""

from __future__ import annotations

import os
import socket
import subprocess
import sys

import pytest
import torch
import torch.distributed as dist

from awpf_ext.distributed import SINGLE_PROCESS, World, init_distributed

GATHER = """
import torch
from awpf_ext.distributed import init_distributed
with init_distributed() as world:
    for count in (0, 1, 2, 7, 8):
        rows = torch.arange(2 * count).reshape(count, 2)
        share = world.share(count)
        own = rows[share.start : share.stop]
        assert torch.equal(world.all_gather(own, count), rows), (count, world)
    for counts in ((0, 0, 0), (3, 0, 2), (0, 4, 1)):
        rows = torch.arange(2 * sum(counts)).reshape(-1, 2)
        own = rows.split(counts)[world.rank]
        joint, place = world.all_gather_ragged(own)
        assert torch.equal(joint, rows), (counts, world)
        assert torch.equal(joint[place.start : place.stop], own), (counts, world)
print("equal")
"""


@pytest.mark.parametrize("size", [1, 2, 3, 5])
@pytest.mark.parametrize("count", [0, 1, 4, 9])
def test_shares_are_a_partition_into_nearly_equal_parts(count, size):
    shares = [World(rank, size).share(count) for rank in range(size)]
    assert [row for share in shares for row in share] == list(range(count))
    sizes = [len(share) for share in shares]
    assert max(sizes) - min(sizes) <= 1


def test_a_single_process_gathers_only_its_own_rows():
    rows = torch.arange(6).reshape(3, 2)
    assert SINGLE_PROCESS.all_gather(rows, 3) is rows
    assert SINGLE_PROCESS.all_gather_ragged(rows) == (rows, range(3))


def started(program: str, size: int) -> list[subprocess.Popen[str]]:
    """`program`, started in `size` processes."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    shared = {**os.environ, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    own = {"WORLD_SIZE": str(size), "OMP_NUM_THREADS": "1"}
    return [
        subprocess.Popen(
            [sys.executable, "-c", program],
            env={**shared, **own, "RANK": str(rank)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(size)
    ]


def test_processes_gather_uneven_and_empty_shares():
    for process in started(GATHER, 3):
        out, errors = process.communicate(timeout=120)
        assert out == "equal\n", errors


LOST = """
import os, sys, torch
from awpf_ext.errors import UserError
from awpf_ext.distributed import init_distributed
try:
    with init_distributed() as world:
        world.barrier()
        if world.rank == 1:
            os._exit(3)
        world.CALL
except UserError as error:
    print(error)
"""


@pytest.mark.parametrize(
    "call",
    ["barrier()", "all_gather_ragged(torch.zeros(2, 3))", "all_gather(torch.zeros(2, 3), 4)"],
)
def test_a_process_whose_peer_is_gone_says_so_in_one_sentence(call):
    left, gone = started(LOST.replace("CALL", call), 2)
    out, errors = left.communicate(timeout=120)
    assert out.startswith("another process of this torchrun ended early"), errors
    gone.communicate(timeout=120)
    assert gone.returncode == 3


def test_an_error_of_this_process_is_raised_unchanged(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setattr(dist, "init_process_group", lambda *args, **options: None)
    monkeypatch.setattr(dist, "destroy_process_group", lambda: None)
    monkeypatch.setattr(dist, "get_rank", lambda: 0)
    with pytest.raises(RuntimeError, match="out of memory"), init_distributed():
        raise RuntimeError("out of memory")
