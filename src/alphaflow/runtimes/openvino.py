"""OpenVINO, which reads the files that alphaflow writes for ONNX."""

from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..errors import UserError, missing
from ..export.network_to_program import Run


def open_openvino(path: str | Path, precision: str = "float32", threads: int = 0) -> Run:
    """Open an ONNX file in OpenVINO, on the processor.

    OpenVINO computes in bfloat16 unasked where the processor can; here it is told which precision is meant, and
    what it says it will do is compared with that.

    Args:
        precision: "float32", "bfloat16", or "int8" for a file of such weights, the rest of which is float32.
        threads: how many compute one evaluation; 0: as many as OpenVINO chooses.

    Returns:
        u as a function of a list of tensors: z, r, t, and y where the file has it.

    Raises:
        UserError: OpenVINO is not installed, or this processor has no bfloat16.
    """
    core = _core()
    if precision == "bfloat16" and "BF16" not in core.get_property("CPU", "OPTIMIZATION_CAPABILITIES"):
        raise UserError("this processor has no products in bfloat16 for OpenVINO: leave out --precision bfloat16")
    hint = "bf16" if precision == "bfloat16" else "f32"
    settings: dict[str, Any] = {"INFERENCE_PRECISION_HINT": hint, "PERFORMANCE_HINT": "LATENCY"}
    if threads:
        settings["INFERENCE_NUM_THREADS"] = threads
    model = core.compile_model(str(path), "CPU", settings)
    told = model.get_property("INFERENCE_PRECISION_HINT").to_string()
    if told != hint:
        raise UserError(f"OpenVINO means to compute in {told} where {hint} was asked for: choose --runtime onnx")
    request, names = model.create_infer_request(), [one.get_any_name() for one in model.inputs]

    def run(inputs: Sequence[Tensor]) -> Tensor:
        request.infer({name: one.cpu().numpy() for name, one in zip(names, inputs, strict=True)})
        return torch.from_numpy(request.get_output_tensor(0).data.copy())

    return run


@cache
def _core() -> Any:
    """Return the one Core of this process, which stays to its end.

    Each brings a stack for signals to the thread that first compiles in it. Where two go in the order in which
    they came, or one goes in another thread, the thread is left with one that is not there any more, and its next
    signal (Ctrl-C, SIGTERM) ends the process (OpenVINO 2026.4.1, findings/openvino-signal-stack.sh).
    """
    try:
        import openvino
    except ImportError as error:
        raise missing("--runtime openvino needs OpenVINO", "openvino", error) from None
    return openvino.Core()
