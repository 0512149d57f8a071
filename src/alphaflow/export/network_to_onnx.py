"""ONNX: a network as a file that other runtimes, and the browser's, compute.

onnx, onnxscript and onnxruntime are an extra, imported when a file is written. onnxruntime reports to its makers
unless told not to before it is imported: `runtime` tells it.
"""

import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..data import Told
from ..errors import UserError, missing
from .network_to_program import Run, compare, export_program, quiet

INPUTS = ("z", "r", "t", "y")
OPSET = 18
"""The oldest that torch's exporter writes, so that every runtime since 2023 reads it."""

ONE_FILE = 1_900_000_000
"""Bytes of weights that still go into the file itself: protobuf ends at 2 GiB."""


def write_onnx(net: nn.Module, path: str | Path, *, shape: Sequence[int], num_classes: Told) -> float:
    """Write u(z, r, t, y) as an ONNX file and check what onnxruntime computes from it.

    Its inputs are z float32 (batch, *shape); r, t float32 (batch,); and, with classes, y int64 (batch,), where
    `num_classes` means no class, or with words y int64 (batch, length), see `Vocabulary`; its output is u float32,
    like z. The batch is free. One jump is z - (t - r)·u. Weights above 1.9 GB lie beside the file, in
    `<name>.onnx.data`, which must stay with it.

    Args:
        net: u(z, r, t, y), float32.
        path: the file to write.
        shape: that of a sample.
        num_classes: the number of classes, or the vocabulary; 0: there is no input y.

    Returns:
        The largest difference from torch, at 1 and 3 rows; see `compare`.

    Raises:
        UserError: the extra is not installed; torch cannot export the network; the file cannot be written; or it
            computes something else.
    """
    path, program = Path(path), export_program(net, shape=shape, num_classes=num_classes)
    load_runtime()  # not there: said before the work
    names = INPUTS[: 4 if num_classes else 3]
    weights = sum(one.numel() * one.element_size() for one in net.state_dict().values())
    with quiet():
        try:
            model = torch.onnx.export(
                program, dynamo=True, opset_version=OPSET, input_names=names, output_names=("u",), verbose=False
            )
        except ImportError as error:
            raise _missing(error) from None
        assert model is not None
        _name_batch(model.model)
        _forget_shapes(model.model)
        model.model.doc_string = "Average velocity u(z, r, t, y); a jump from t to r is z - (t - r) u."
        try:
            model.save(path, external_data=weights > ONE_FILE)
        except OSError as error:
            raise UserError(f"cannot write {path} ({error.strerror}): choose another place") from None
    return compare(net, open_onnx(path), path, shape=shape, num_classes=num_classes)


def open_onnx(path: str | Path, threads: int = 0) -> Run:
    """Open a file that `write_onnx` or `quantise` wrote in onnxruntime, on the processor.

    threads: how many compute one evaluation; 0: as many as onnxruntime chooses.

    Returns:
        u as a function of a list of tensors: z, r, t, and y where the file has it.

    Raises:
        UserError: onnxruntime is not installed.
    """
    runtime = load_runtime()
    options = runtime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3  # errors only: the rest is for its developers
    session = runtime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    names = [one.name for one in session.get_inputs()]

    def run(inputs: Sequence[Tensor]) -> Tensor:
        given = {name: one.cpu().numpy() for name, one in zip(names, inputs, strict=True)}
        return torch.from_numpy(session.run(["u"], given)[0])

    return run


def load_runtime() -> Any:
    """Return the module onnxruntime, with its telemetry off, unless ORT_DISABLE_TELEMETRY already says otherwise.

    Raises:
        UserError: it is not installed.
    """
    off = os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
    try:
        import onnxruntime
    except ImportError as error:
        raise _missing(error) from None
    if off == "1":
        onnxruntime.disable_telemetry_events()
    return onnxruntime


def _name_batch(model: Any) -> None:
    """Call the free axis "batch", which torch calls s13 or so, wherever a shape names it."""
    import onnx_ir

    graph = model.graph
    symbol = re.compile(rf"\b{graph.inputs[0].shape[0]}\b")
    for value in (*graph.inputs, *(out for node in graph for out in node.outputs)):
        if value.shape is not None:
            sizes = [axis if isinstance(axis, int) else symbol.sub("batch", str(axis)) for axis in value.shape]
            value.shape = onnx_ir.Shape(sizes)


def _forget_shapes(model: Any) -> None:
    """Remove the weights' shapes that are repeated apart from the weights.

    They stand in the way of tools that change weights: onnxruntime's quantisation leaves the second ones as they
    were, and then finds that both differ (onnxruntime 1.31; microsoft/onnxruntime, issue 25890).
    """
    for value in model.graph.initializers.values():
        value.shape, value.type, value.doc_string = None, None, None
        value.metadata_props.clear()


def _missing(error: ImportError) -> UserError:
    return missing("ONNX needs onnx, onnxscript and onnxruntime", "onnx", error)
