"""Weights of eight bits in an ONNX file: a quarter of the bytes, and quicker products on most processors.

The weights of matrix products are stored as int8, one scale for each matrix, and activations are rounded to eight
bits as they come, one scale for each tensor: rows of a batch are no longer apart, and what one is rounded to
depends on the others. Convolutions and tables of classes stay float32.
"""

import tempfile
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import nn

from ..data import Told
from ..errors import UserError, one_line
from .network_to_onnx import ONE_FILE, open_onnx, write_onnx
from .network_to_program import Run, evaluating, example_inputs, quiet

LARGEST_ERROR = 0.1
"""The largest error of a quantised network, as a share of its output (root mean square), that is not refused."""

ROWS = 8
"""The rows on which the error is measured."""


def write_int8(net: nn.Module, path: str | Path, *, shape: Sequence[int], num_classes: Told) -> float:
    """Write u(z, r, t, y) as `write_onnx` does, with weights of eight bits.

    Returns:
        Its relative error; see `relative_error`.

    Raises:
        UserError: as `write_onnx`, `quantise`, `relative_error`.
    """
    with tempfile.TemporaryDirectory(dir=_existing(Path(path))) as folder:
        whole = Path(folder) / "model.onnx"
        write_onnx(net, whole, shape=shape, num_classes=num_classes)
        quantise(whole, path)
    return relative_error(net, open_onnx(path), path, shape=shape, num_classes=num_classes)


def quantise(source: str | Path, path: str | Path) -> None:
    """Write an ONNX file of `write_onnx` again with weights of eight bits.

    Seven of them are used: with all eight, sums of two products overflow their sixteen bits on processors without
    VNNI, in silence (onnxruntime 1.31 on AVX2: an error of 5.8 % for a DiT-S/4, where seven bits have 2.4 %).

    Raises:
        UserError: the file has no products with weights, or cannot be written.
    """
    from onnxruntime import quantization

    source, path = Path(source), Path(path)
    size = sum(one.stat().st_size for one in source.parent.glob(f"{source.name}*"))
    with quiet():
        try:
            quantization.quantize_dynamic(
                source,
                path,
                weight_type=quantization.QuantType.QInt8,
                reduce_range=True,
                op_types_to_quantize=["MatMul"],  # and Gemm, which it turns into one
                use_external_data_format=size > ONE_FILE,
            )
        except OSError as error:
            raise UserError(f"cannot write {path} ({one_line(error)}): choose another place") from None
    if not _products(path):
        raise UserError(
            f"{path} has no products of matrices that int8 would make quicker: leave it in float32", status=2
        )


def relative_error(
    net: nn.Module, run: Run, path: str | Path, *, shape: Sequence[int], num_classes: Told
) -> float:
    """Return ‖run - net‖ / ‖net‖ over `ROWS` rows of noise at times in [0, 1].

    Raises:
        UserError: it is above `LARGEST_ERROR`, or no number.
    """
    device = next((weight.device for weight in net.parameters()), torch.device("cpu"))
    inputs = example_inputs(shape, num_classes, ROWS, device)
    with evaluating(net), torch.no_grad():
        expected = net(*inputs).cpu()
        off = (run(inputs).cpu() - expected).norm()
    error = (off / expected.norm().clamp(min=1e-12)).item() if off else 0.0
    if not error <= LARGEST_ERROR:
        raise UserError(
            f"{path} differs from the network by {100 * error:.2g} % where {100 * LARGEST_ERROR:g} % is allowed: "
            "eight bits are too few for this network; leave it in float32"
        )
    return error


def _products(path: Path) -> int:
    import onnx

    graph = onnx.load(path, load_external_data=False).graph
    return sum(node.op_type in ("MatMulInteger", "MatMulIntegerToFloat") for node in graph.node)


def _existing(path: Path) -> Path | None:
    """Return the folder that the file goes to, where there is room for the first one too; None: the system's."""
    return path.parent if path.parent.is_dir() else None
