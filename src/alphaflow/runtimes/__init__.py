"""Sampling with the network computed by another program than torch: onnxruntime, or OpenVINO.

Only the network's evaluation changes hands. Noise, seeds, guidance, times and decoding stay alphaflow's own, so
that samples in float32 are torch's up to rounding. This module loads nothing heavy: `--help` answers at once.
"""

from collections.abc import Mapping

from ..errors import UserError, choose

PRECISIONS: Mapping[str, tuple[str, ...]] = {
    "torch": ("float32", "bfloat16"),
    "onnx": ("float32", "int8"),
    "openvino": ("float32", "bfloat16", "int8"),
}
"""Runtime -> the precisions that it computes in."""

EVERY_PRECISION = ("float32", "bfloat16", "int8")
"""All precisions, the most precise first."""

RUNTIMES = ("auto", *PRECISIONS)
"""What may be asked for; `auto` is the quickest that is installed, by a short measurement."""


def check_runtime(runtime: str, precision: str, device: str = "cpu") -> None:
    """Check words that name a runtime and a precision, before anything is loaded.

    Raises:
        UserError: one is unknown, or they do not go together or with the device, with status 2.
    """
    choose("runtime", runtime, RUNTIMES, status=2)
    choose("precision", precision, EVERY_PRECISION, status=2)
    if runtime != "auto" and precision not in PRECISIONS[runtime]:
        able = [name for name, known in PRECISIONS.items() if precision in known]
        raise UserError(
            f"--precision {precision}: {runtime} does not compute in it: choose --runtime {', '.join(able)}, "
            "or auto",
            status=2,
        )
    if device.startswith("cuda") and (runtime in ("onnx", "openvino") or precision == "int8"):
        what = f"--runtime {runtime}" if runtime != "auto" else f"--precision {precision}"
        raise UserError(f"{what} computes on the processor: leave out --device {device}", status=2)


def check_asked(runtime: str | None, precision: str | None, device: str = "cpu") -> None:
    """Check what was asked for as `check_runtime` does: a precision alone asks for the quickest runtime that has
    it, and a runtime alone for float32."""
    if runtime or precision:
        check_runtime(runtime or "auto", precision or "float32", device)
