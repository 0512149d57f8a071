"""What computes a network, in which precision, and how far its samples are from torch's float32; and samplers that
others step."""

import tempfile
from collections.abc import Callable
from contextlib import redirect_stderr
from io import StringIO
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

import alphaflow as af
from alphaflow import models
from alphaflow.export import export
from alphaflow.generation.generator import Generator
from alphaflow.runs import model_folder
from alphaflow.runtimes import cached
from alphaflow.runtimes.running import in_runtime

CLASSES = 3
NETWORKS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...], str]] = {
    "DiT": (lambda: models.DiT(8, 2, 3, 64, 3, 4, CLASSES), (3, 8, 8), "image"),
    "ImprovedDiT": (lambda: models.ImprovedDiT(8, 2, 3, 64, 2, 1, 4, CLASSES, 128), (3, 8, 8), "image"),
    "UNet": (lambda: models.UNet(3, width=16, multipliers=(1, 2), num_classes=CLASSES), (3, 8, 8), "image"),
    "VideoDiT": (lambda: models.VideoDiT(8, 2, 2, 3, 64, 2, 4, CLASSES), (3, 2, 8, 8), "video"),
}
ROWS = 32


def made(name: str) -> Generator:
    """A generator with random weights, none of them zero."""
    make, shape, kind = NETWORKS[name]
    torch.manual_seed(0)
    net = make().eval().requires_grad_(False)
    for weight in net.parameters():
        if not weight.any():
            nn.init.normal_(weight, std=0.1)
    return Generator(net, shape, CLASSES, (), kind, 0, torch.device("cpu"))


def in_precision(name: str, runtime: str, precision: str) -> dict[str, Any]:
    """Errors of samples in one and four steps."""
    generator = made(name)
    other = in_runtime(generator, runtime, precision)
    return errors(generator, other.net)


def unasked(name: str) -> dict[str, Any]:
    """The same of OpenVINO as it is when nobody tells it a precision."""
    import openvino

    generator = made(name)
    path = cached.exported(generator.net, shape=generator.shape, num_classes=CLASSES, int8=False)
    model = openvino.Core().compile_model(str(path), "CPU")
    names = [one.get_any_name() for one in model.inputs]

    def net(z: Tensor, r: Tensor, t: Tensor, y: Tensor) -> Tensor:
        found = model({key: one.numpy() for key, one in zip(names, (z, r, t, y))})
        return torch.from_numpy(next(iter(found.values())).copy())

    return {"told": model.get_property("INFERENCE_PRECISION_HINT").to_string(), **errors(generator, net)}


def errors(generator: Generator, net: Any) -> dict[str, float]:
    source = torch.Generator().manual_seed(3)
    noise = torch.randn(ROWS, *generator.shape, generator=source)
    y = torch.arange(ROWS) % CLASSES
    found = {}
    for steps in (1, 4):
        ours, theirs = (af.sample(one, noise, y, times=even(steps)) for one in (generator.net, net))
        found["one step" if steps == 1 else "four steps"] = off(theirs, ours)
    return found


def exported_pipeline(name: str) -> dict[str, Any]:
    """Our pipeline and scheduler, opened in diffusers by its own loader, against `alphaflow.sample`."""
    from diffusers import DiffusionPipeline

    generator = made(name)
    with tempfile.TemporaryDirectory() as place:
        record = model_folder.ModelRecord(
            network=model_folder.describe_network(generator.net),
            guides=None,
            data={
                "shape": list(generator.shape),
                "kind": generator.kind,
                "num_classes": CLASSES,
                "class_names": ["a", "b", "c"],
            },
        )
        folder, out = Path(place) / "model", Path(place) / "pipe"
        model_folder.write_model(folder, record, generator.net.state_dict())
        export(folder, out, "diffusers")
        pipe = DiffusionPipeline.from_pretrained(str(out), custom_pipeline=str(out), trust_remote_code=True)
        pipe.set_progress_bar_config(disable=True)
        noise, y = torch.randn(4, *generator.shape), [0, 1, 2, 3]
        found: dict[str, Any] = {}
        for method in ("ode", "consistency", "euler"):
            pipe.scheduler = type(pipe.scheduler)(method=method)
            for steps in (1, 4):
                words = {"method": method, "generator": torch.manual_seed(2)}
                ours = af.sample(generator.net, noise, torch.tensor(y), times=even(steps), **words)
                with redirect_stderr(StringIO()):
                    theirs = pipe(y, steps, latents=noise, output_type="latent", generator=torch.manual_seed(2))
                found[f"{method}, {steps}"] = off(theirs.images, ours)
        return found


def stepped(make: str, given: bool, shift: float = 1.0) -> dict[str, Any]:
    """Our network stepped by diffusers' own scheduler, against `alphaflow.sample` in as many steps."""
    import diffusers

    generator = made("DiT")
    noise, y = torch.randn(4, *generator.shape, generator=torch.manual_seed(1)), torch.tensor([0, 1, 2, 3])
    found: dict[str, Any] = {}
    flow_map = "FlowMap" in make
    for steps in (1, 2, 4):
        scheduler = getattr(diffusers, make)(shift=shift)
        words = {"sigmas": [1 - k / steps for k in range(steps)]} if given else {"num_inference_steps": steps}
        scheduler.set_timesteps(**words)
        z, ends = noise, [*scheduler.timesteps[1:].tolist(), 0.0]
        for t, end in zip(scheduler.timesteps, ends):
            rows = torch.full((len(z),), float(t) / 1000)
            r = torch.full_like(rows, end / 1000) if flow_map else rows
            z = scheduler.step(generator.net(z, r, rows, y), t, z, return_dict=False)[0]
        ours = af.sample(generator.net, noise, y, times=even(steps), method="ode" if flow_map else "euler")
        found[f"{steps}"] = off(z, ours)
        found[f"times of {steps}"] = [round(float(sigma), 4) for sigma in np.asarray(scheduler.sigmas)]
    return found


def even(steps: int) -> tuple[float, ...]:
    """Times from 1 to 0 in equal steps."""
    return tuple(1 - k / steps for k in range(steps + 1))


def off(a: Tensor, b: Tensor) -> float:
    """‖a - b‖ / ‖b‖."""
    return float((a.double() - b.double()).norm() / b.double().norm())
