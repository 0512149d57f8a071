"""A network as one graph without its Python: `torch.export`, which ONNX is made from."""

import contextlib
import logging
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from ..data import Told, Vocabulary
from ..errors import UserError, one_line

Run = Callable[[Sequence[Tensor]], Tensor]
"""u as a function of a list of tensors: z, r, t, and y where there are classes."""

LARGEST_BATCH = 1 << 16
TOLERANCE = 1e-4
"""The largest difference that an exported network may have from its original, where outputs are of size 1."""


def example_inputs(
    shape: Sequence[int], num_classes: Told, rows: int = 2, device: torch.device | str = "cpu"
) -> tuple[Tensor, ...]:
    """Return inputs (z, r, t) of a network, and y where it has classes; always the same.

    z (rows, *shape) is noise, 0 <= r < t <= 1, and classes go round, the unconditional one among them; so do the
    examples of a vocabulary, which stands in the place of the number of classes, and the empty prompt.
    """
    random = torch.Generator().manual_seed(0)
    t = torch.linspace(1.0, 0.1, rows) if rows > 1 else torch.ones(1)
    inputs = [torch.randn(rows, *shape, generator=random), t * torch.linspace(0.0, 0.9, rows), t]
    if isinstance(num_classes, Vocabulary):
        prompts = ["", *num_classes.examples]
        inputs.append(num_classes.encode([prompts[k % len(prompts)] for k in range(rows)], cut=True))
    elif num_classes:
        inputs.append(num_classes - torch.arange(rows) % (num_classes + 1))
    return tuple(one.to(device) for one in inputs)


def export_program(net: nn.Module, *, shape: Sequence[int], num_classes: Told) -> torch.export.ExportedProgram:
    """Return the graph of u(z, r, t, y) in evaluation mode, for any number of rows from 1 to 65536.

    Args:
        net: u(z, r, t, y) -> like z, float32. Nothing of it is changed.
        shape: of a sample; the graph takes no other.
        num_classes: 0: the graph's inputs are (z, r, t); else (z, r, t, y), with y int64 and `num_classes` for no
            class; or a vocabulary, with y int64 (rows, length), as it encodes prompts.

    Raises:
        UserError: the network does what `torch.export` cannot follow, such as branching on a tensor's value.
    """
    device = next((weight.device for weight in net.parameters()), torch.device("cpu"))
    inputs = example_inputs(shape, num_classes, device=device)
    batch = torch.export.Dim("batch", min=1, max=LARGEST_BATCH)
    with evaluating(net), quiet():
        try:
            return torch.export.export(net, inputs, dynamic_shapes=tuple({0: batch} for _ in inputs))
        except Exception as error:  # torch.export raises many kinds, user's networks any
            what = one_line(error, 300)
            raise UserError(
                f"torch.export cannot follow {type(net).__name__} ({what}): keep its forward free of branches on "
                "values and on the number of rows"
            ) from None


def write_program(net: nn.Module, path: str | Path, *, shape: Sequence[int], num_classes: Told) -> float:
    """Write the graph as a `.pt2` file, which `torch.export.load(path).module()` runs without alphaflow.

    Returns:
        The largest difference of the file, read back, from the network, at 1 and 3 rows.

    Raises:
        UserError: as `export_program`; the file cannot be written, or computes something else.
    """
    program = export_program(net, shape=shape, num_classes=num_classes)
    try:
        with quiet():
            torch.export.save(program, Path(path))
            loaded = torch.export.load(Path(path)).module()
    except (OSError, RuntimeError) as error:
        raise UserError(f"cannot write {path} ({one_line(error)}): choose another place") from None
    return compare(net, lambda inputs: loaded(*inputs), path, shape=shape, num_classes=num_classes)


def compare(
    net: nn.Module,
    other: Run,
    path: str | Path,
    *,
    shape: Sequence[int],
    num_classes: Told,
) -> float:
    """Return the largest difference of `other`, a function of a list of inputs, from the network, at 1 and 3 rows.

    Where outputs are above 1 it counts relative to the largest.

    Raises:
        UserError: the difference is above `TOLERANCE`, or no number; `path` is then named as what must not be
            used.
    """
    device = next((weight.device for weight in net.parameters()), torch.device("cpu"))
    worst = 0.0
    with evaluating(net), torch.no_grad():
        for rows in (1, 3):
            inputs = example_inputs(shape, num_classes, rows, device)
            expected = net(*inputs).cpu()
            difference = (other(inputs).cpu() - expected).abs().max() / expected.abs().max().clamp(min=1)
            if not difference <= TOLERANCE:
                raise UserError(
                    f"{path} differs from the network by {difference.item():.2g} where {TOLERANCE:g} is allowed: "
                    "don't use it; the weights are not finite or an operator was translated wrongly"
                )
            worst = max(worst, difference.item())
    return worst


@contextlib.contextmanager
def evaluating(net: nn.Module) -> Iterator[None]:
    """For a while, put the modules into evaluation mode, and afterwards into the modes that they had."""
    modes = [(module, module.training) for module in net.modules()]
    net.eval()
    try:
        yield
    finally:
        for module, mode in modes:
            module.training = mode


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """For a while, silence what exporters and quantisers say to their own developers, such as that torchvision is
    not there."""
    logs = [logging.getLogger(name) for name in ("torch.onnx", "root")]
    levels = [log.level for log in logs]
    for log in logs:
        log.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)
            warnings.simplefilter("ignore", DeprecationWarning)
            yield
    finally:
        for log, level in zip(logs, levels):
            log.setLevel(level)
