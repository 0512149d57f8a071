"""What is set for the whole process before training."""

import subprocess
import sys

import pytest
import torch

from alphaflow.devices import prepare

FAULTS = """
import resource, sys, torch
from alphaflow.devices import keep_freed_memory
if sys.argv[1] == "keep" and not keep_freed_memory():
    print(-1); sys.exit()
def faults():
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt
def step():
    parts = [torch.ones(12_000_000) for _ in range(4)]  # 48 MB each
    return sum(part[0] for part in parts)
for _ in range(4):
    step()
before = faults()
for _ in range(5):
    step()
print(faults() - before)
"""


def faults(how: str) -> int:
    words = [sys.executable, "-c", FAULTS, how]
    return int(subprocess.run(words, capture_output=True, text=True, check=True).stdout)


def test_memory_that_a_step_frees_is_there_for_the_next_one():
    kept = min(faults("keep") for _ in range(3))  # in one process in sixteen an array finds its place late
    if kept < 0:
        pytest.skip("this C library is not glibc")
    # 234,000 pages of 4 KiB are written. Arrays of more than 32 MiB are the ones that glibc always takes from the
    # system and gives back; of smaller ones, its threshold, which moves, spares some processes all faults.
    assert 100 * kept < faults("default")


def test_products_on_a_gpu_are_tf32():
    before = torch.get_float32_matmul_precision()
    try:
        prepare(torch.device("cuda"))
        assert torch.get_float32_matmul_precision() == "high"
    finally:
        torch.set_float32_matmul_precision(before)
