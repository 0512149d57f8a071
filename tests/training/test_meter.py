"""Counts that are known in closed form. Nothing here depends on how fast the machine is."""

import time

import pytest
import torch

from alphaflow import models
from alphaflow.training.throughput import CLOCKED, ThroughputMeter, forward_flops, product_rate


@pytest.mark.parametrize("classes", [0, 10])
def test_operations_of_a_forward_pass_are_twice_the_dits_products(classes):
    net = models.DiT(8, 2, 1, 32, 3, 4, classes)
    assert forward_flops(net, (1, 8, 8), classes) == 2 * models.forward_macs(net)


def test_operations_are_counted_for_convolutions_too():
    net = models.UNet(1, width=8, multipliers=(1, 2), num_classes=10)
    assert forward_flops(net, (1, 8, 8), 10) > 1e5


def test_rates_and_shares_agree_with_each_other():
    meter = ThroughputMeter(samples=10, flops=100.0, peak=2000.0, device=torch.device("cpu"))
    for _ in range(4):
        with meter.waiting("data"):
            time.sleep(0.02)
        meter.count()
    values = meter.read()
    assert set(values) == set(CLOCKED)
    assert values["mfu"] == pytest.approx(values["samples_per_second"] / 10 * 1000 / 2000)
    seconds = 40 / values["samples_per_second"]
    assert 0.08 / seconds <= values["data_wait"] <= 1
    assert values["save_wait"] == 0
    assert values["memory_gb"] > 0.05  # torch alone
    assert meter.read()["samples_per_second"] == 0  # since the last reading


def test_what_is_paused_for_counts_in_no_rate():
    meter = ThroughputMeter(samples=10, flops=100.0, peak=2000.0, device=torch.device("cpu"))
    began = meter._start
    with meter.paused():
        time.sleep(0.02)
    assert meter._start - began >= 0.02


def test_the_rate_of_products_is_measured():
    assert product_rate(torch.device("cpu"), "float32", seconds=0.01) > 1e8
