"""A generator whose network is computed by a runtime, named or found by measurement."""

import logging
import math
import time
from dataclasses import replace
from importlib.util import find_spec

import torch
from torch import Tensor, nn

from ..data import Told, Vocabulary
from ..devices import autocast
from ..errors import UserError, missing
from ..export.network_to_onnx import open_onnx
from ..export.network_to_program import Run, example_inputs
from ..generation.generator import CHUNK, Generator
from . import PRECISIONS, check_runtime
from .cached import exported, is_cached
from .openvino import open_openvino

log = logging.getLogger("alphaflow")

WORTH = 60.0
"""Seconds of torch's own work below which `auto` writes no file for another runtime: that takes as long."""

ROUNDS = 3
"""How often each runtime is measured, in turn."""

_MODULES = {
    "onnx": ("onnx", "onnxscript", "onnxruntime"),
    "openvino": ("onnx", "onnxscript", "onnxruntime", "openvino"),
}


class InRuntime(nn.Module):
    """u(z, r, t, y) as a runtime computes it; called like the network, whose weights it still has.

    net: the network. run: its other form. num_classes: what the network is told, see `Told`; 0: there is no y.
    """

    def __init__(self, net: nn.Module, run: Run, num_classes: Told) -> None:
        super().__init__()
        self.net, self.run, self.num_classes = net, run, num_classes
        self.eval()

    def forward(self, z: Tensor, r: Tensor, t: Tensor, y: Tensor | None = None) -> Tensor:
        inputs = [z.float(), r.float(), t.float()]
        if self.num_classes:
            inputs.append(self._untold(len(z)) if y is None else y)
        return self.run([one.contiguous() for one in inputs]).to(z)

    def _untold(self, rows: int) -> Tensor:
        if isinstance(self.num_classes, Vocabulary):
            return self.num_classes.encode([""] * rows)
        return torch.full((rows,), self.num_classes)


class InBfloat16(nn.Module):
    """u(z, r, t, y) of a network in torch, with its products in bfloat16; called like the network."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net
        self.eval()

    def forward(self, z: Tensor, r: Tensor, t: Tensor, y: Tensor | None = None) -> Tensor:
        with autocast("bfloat16", z.device):
            return self.net(z, r, t, y).to(z)


def in_runtime(generator: Generator, runtime: str, precision: str = "float32") -> Generator:
    """Return the generator with its network computed by a runtime, on as many threads as torch has.

    The generator then says so in `runtime`, and results with it.

    Raises:
        UserError: see `check_runtime`, `exported`, `open_openvino`; what the runtime needs is not installed; the
            network takes guidance as an input, which its file would not.
    """
    check_runtime(runtime, precision, generator.device.type)
    net, words = generator.net, f"{runtime} {precision}"
    if runtime == "torch":
        return replace(generator, net=InBfloat16(net) if precision == "bfloat16" else net, runtime=words)
    if generator.scales is not None:
        raise UserError(
            f"--runtime {runtime}: this network takes guidance as an input, which the file for it has not: "
            "choose --runtime torch"
        )
    if not _installed(runtime):
        raise missing(
            f"--runtime {runtime} is not installed", "onnx,openvino" if runtime == "openvino" else "onnx"
        )
    int8, threads = precision == "int8", torch.get_num_threads()
    path = exported(net, shape=generator.shape, num_classes=generator.told, int8=int8)
    run = open_onnx(path, threads) if runtime == "onnx" else open_openvino(path, precision, threads)
    return replace(generator, net=InRuntime(net, run, generator.told), runtime=words)


def run_in(
    generator: Generator, runtime: str | None, precision: str | None, *, calls: float = math.inf
) -> Generator:
    """Return the generator as `choose_runtime` and `in_runtime` make it; as it is where neither is asked for.

    Args:
        runtime: None: "auto", if there is a precision. precision: None: "float32". calls: see `choose_runtime`.

    Raises:
        UserError: see there.
    """
    if not runtime and not precision:
        return generator
    precision = precision or "float32"
    return in_runtime(generator, choose_runtime(generator, runtime or "auto", precision, calls=calls), precision)


def choose_runtime(
    generator: Generator, runtime: str, precision: str = "float32", *, calls: float = math.inf, rows: int = CHUNK
) -> str:
    """Return the runtime itself, or for "auto" the quickest of those that are installed and have the precision.

    Each evaluates the network on `rows` rows a few times, in turn; the least time counts. Where the file for the
    others is not in the cache and torch would be done within `WORTH` seconds, torch it is. A message tells what
    cannot take the network, which is then not considered.

    Args:
        generator: in torch, as it was loaded.
        calls: how many evaluations of so many rows there will be.

    Raises:
        UserError: see `check_runtime`; no runtime has the precision.
    """
    check_runtime(runtime, precision, generator.device.type)
    if runtime != "auto":
        return runtime
    able = [name for name, known in PRECISIONS.items() if precision in known and _installed(name)]
    guided = generator.scales is not None
    if generator.device.type != "cpu" or guided:
        able = [name for name in able if name == "torch"]
    if not able:
        if guided:
            raise UserError(
                f"--precision {precision}: no runtime has it for a network that takes guidance as an input"
            )
        raise missing(f"--precision {precision} needs onnxruntime", "onnx")
    opened: dict[str, Generator] = {}
    for name in able:
        if opened and name != "torch" and not _worth(opened, generator, precision, calls, rows):
            break
        try:
            opened[name] = in_runtime(generator, name, precision)
        except UserError as error:
            log.warning("%s is left out: %s", name, error)
    if not opened:
        raise UserError(f"--precision {precision}: no runtime computes this network in it; leave it out")
    seconds = _measured(opened, rows) if len(opened) > 1 else {}
    best = min(seconds, key=seconds.__getitem__) if seconds else next(iter(opened))
    if seconds:
        each = ", ".join(f"{name} {1000 * value:.3g} ms" for name, value in seconds.items())
        log.info("%s is the quickest here at %d rows in %s: %s", best, rows, precision, each)
    return best


def _worth(opened: dict[str, Generator], generator: Generator, precision: str, calls: float, rows: int) -> bool:
    """Whether torch would take so long that a file for another runtime is worth its time; it is if it exists."""
    if len(opened) > 1 or "torch" not in opened or is_cached(generator.net, int8=precision == "int8"):
        return True
    return calls * _measured(opened, rows, 1)["torch"] > WORTH


def _measured(opened: dict[str, Generator], rows: int, rounds: int = ROUNDS) -> dict[str, float]:
    """Return the least seconds that each takes for one evaluation."""
    seconds = dict.fromkeys(opened, math.inf)
    with torch.no_grad():
        for k in range(rounds + 1):
            for name, generator in opened.items():
                inputs = example_inputs(generator.shape, generator.told, rows, generator.device)
                start = time.perf_counter()
                generator.net(*inputs)
                if k:  # the first warms up
                    seconds[name] = min(seconds[name], time.perf_counter() - start)
    return seconds


def _installed(runtime: str) -> bool:
    return all(find_spec(name) is not None for name in _MODULES.get(runtime, ()))
