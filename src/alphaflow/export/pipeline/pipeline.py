"""Pictures or videos by a flow map, in one step or a few."""

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import torch
from diffusers import DiffusionPipeline
from diffusers.pipelines.pipeline_utils import ImagePipelineOutput
from diffusers.utils.torch_utils import randn_tensor
from PIL import Image
from torch import Tensor


class FlowMapPipeline(DiffusionPipeline):
    """Generates by jumps from noise to data.

    Args:
        transformer: the network, a `FlowMapNetwork`.
        scheduler: diffusers' own `FlowMapEulerDiscreteScheduler`, or a `FlowMapScheduler` from the folder, which
            knows other methods.
        vae: an autoencoder where the network makes latents; None where it makes pixels.
    """

    transformer: Any
    scheduler: Any
    vae: Any
    model_cpu_offload_seq = "transformer->vae"
    _optional_components = ("vae",)

    def __init__(self, transformer: Any, scheduler: Any, vae: Any = None) -> None:
        super().__init__()
        self.register_modules(transformer=transformer, scheduler=scheduler, vae=vae)

    @torch.no_grad()
    def __call__(
        self,
        class_labels: int | str | Sequence[int | str] | None = None,
        num_inference_steps: int = 1,
        timesteps: Sequence[float] | None = None,
        guidance_scale: float = 1.0,
        guidance_interval: tuple[float, float] = (0.0, 1.0),
        num_images: int = 1,
        generator: torch.Generator | list[torch.Generator] | None = None,
        latents: Tensor | None = None,
        output_type: str = "pil",
        return_dict: bool = True,
    ) -> ImagePipelineOutput | tuple[Any]:
        """Generate samples.

        Args:
            class_labels: a class for each sample, by number or name; None: no class.
            num_inference_steps: network evaluations.
            timesteps: falling times instead, as in (1, 0.5, 0).
            guidance_scale: 1 for none. A network that takes it as an input gets it; for others, trained with
                dropped labels, any other doubles the cost.
            guidance_interval: the times between which to guide, for a network that takes these as well.
            num_images: how many, where neither labels nor latents say it.
            generator: draws the noise.
            latents: the noise to begin with, (N, *shape), instead of fresh noise by `generator`.
            output_type: "pil": images, of a video a list of frames; "np": uint8 (N, H, W, C), of videos
                (N, T, H, W, C); "pt": float (N, C, H, W) or (N, C, T, H, W) in about [-1, 1]; "latent": samples as
                the network makes them.
            return_dict: whether the result is an object with `images`; else it is a tuple of them alone.

        Returns:
            The samples.
        """
        if output_type not in ("pil", "np", "pt", "latent"):
            raise ValueError(f"unknown output_type {output_type!r}: choose pil, np, pt or latent")
        config, device = self.transformer.config, self._execution_device
        y = self._labels(class_labels, device)
        rows = len(y) if y is not None else len(latents) if latents is not None else num_images
        if latents is None:
            latents = randn_tensor((rows, *config.shape), generator, torch.device(device), self.transformer.dtype)
        if latents.shape != (rows, *config.shape):
            raise ValueError(f"latents have shape {tuple(latents.shape)}: give {(rows, *config.shape)}")
        schedule = self._schedule(num_inference_steps, timesteps, device, generator)
        z = latents.to(device, self.transformer.dtype)
        y, guidance_scale = self._told(y, guidance_scale, guidance_interval)
        for t, r, words in self.progress_bar(schedule):
            u = self._velocity(z, r.expand(rows), t.expand(rows), y, guidance_scale)
            z = self.scheduler.step(u, sample=z, **words).prev_sample
        images = z if output_type == "latent" else self._show(z, output_type)
        self.maybe_free_model_hooks()
        return ImagePipelineOutput(images=images) if return_dict else (images,)

    def _schedule(
        self, count: int, timesteps: Sequence[float] | None, device: Any, generator: Any
    ) -> list[tuple[Tensor, Tensor, dict[str, Any]]]:
        """Return each step's t, the r for which the network gives u, and what the scheduler is told.

        diffusers' scheduler counts times in thousandths, up to 1000, and shifts those that it is given; a folder's
        own takes them as they are.
        """
        scheduler = self.scheduler
        if hasattr(scheduler, "asks_for"):
            scheduler.set_timesteps(None if timesteps is not None else count, device=device, timesteps=timesteps)
            return [
                (t, scheduler.asks_for(t), {"timestep": t, "generator": generator}) for t in scheduler.timesteps
            ]
        units = scheduler.config.num_train_timesteps
        if timesteps is None:
            if count < 1:
                raise ValueError(f"num_inference_steps {count} must be at least 1")
            scheduler.set_timesteps(count, device=device)
            last = 0.0
        else:
            falling = all(t > r for t, r in pairwise(timesteps))
            if len(timesteps) < 2 or not falling or timesteps[0] > 1 or timesteps[-1] < 0:
                raise ValueError(f"timesteps {tuple(timesteps)} must fall, within [0, 1], as in (1, 0.5, 0)")
            scheduler.set_timesteps(timesteps=[units * t for t in timesteps[:-1]], device=device)
            last = scheduler.apply_shift(torch.tensor(timesteps[-1], dtype=torch.float64)).item()
        times = [*scheduler.sigmas[:-1].tolist(), last]
        steps = []
        for t, r in pairwise(times):
            ends = [torch.tensor(one, dtype=torch.float32, device=device) for one in (t, r)]
            words = {name: torch.tensor(units * one) for name, one in (("timestep", t), ("r_timestep", r))}
            steps.append((ends[0], ends[1], words))
        return steps

    def _told(self, y: Tensor | None, scale: float, interval: tuple[float, float]) -> tuple[Tensor | None, float]:
        """Return labels that hold the guidance, and the scale that remains to be applied.

        Both stay as they are for networks that take no such input.
        """
        config, (start, end) = self.transformer.config, interval
        if (start, end) != (0, 1) and (not config.intervals or scale == 1):
            raise ValueError(
                f"guidance_interval {interval} needs a network that takes intervals, and a scale: leave it out"
            )
        if config.scales is None or scale == 1 or y is None:
            return y, scale
        least, largest = config.scales
        if not (least <= scale <= largest and 0 <= start <= 0.5 <= end <= 1):
            raise ValueError(
                f"guidance_scale {scale:g} between {start:g} and {end:g}: this network knows {least:g} … "
                f"{largest:g}, from 0 … 0.5 on, and up to 0.5 … 1"
            )
        columns = [y.float()]
        for value, unguided in ((scale, 1.0), (start, 0.0), (end, 1.0)):
            columns.append(torch.where(y == config.num_classes, unguided, torch.full_like(columns[0], value)))
        return torch.stack(columns, dim=1), 1.0

    def _velocity(self, z: Tensor, r: Tensor, t: Tensor, y: Tensor | None, scale: float) -> Tensor:
        """Return u, guided where the network was trained for that."""
        if scale == 1:
            return self.transformer(z, r, t, y)
        guides, null = self.transformer.config.guides, self.transformer.config.num_classes
        if guides is None or y is None or not scale >= 0:
            raise ValueError(
                f"guidance_scale {scale:g} needs a network trained with dropped labels, labels, and a scale of at "
                "least 0: leave it out"
            )
        both = torch.cat([y, torch.full_like(y, null)])
        twice = self.transformer(z.repeat(2, *(1,) * (z.ndim - 1)), r.repeat(2), t.repeat(2), both)
        conditional, unconditional = twice.chunk(2)
        within = (t >= guides[0]) & (t <= guides[1])
        scales = torch.where(within, scale, 1.0).to(z).reshape(-1, *(1,) * (z.ndim - 1))
        return unconditional + scales * (conditional - unconditional)

    def _labels(self, labels: Any, device: Any) -> Tensor | None:
        """Return the numbers (N,) of classes, given by number or name."""
        if labels is None:
            return None
        names, count = list(self.transformer.config.class_names), self.transformer.config.num_classes
        labels = [labels] if isinstance(labels, int | str) else list(labels)
        for label in labels:
            if label not in names if isinstance(label, str) else not 0 <= label <= count or not count:
                raise ValueError(
                    f"no class {label!r}: give one of {count} by number" + (" or name" if names else "")
                )
        numbers = [names.index(one) if isinstance(one, str) else int(one) for one in labels]
        return torch.tensor(numbers, dtype=torch.int64, device=device)

    def _show(self, z: Tensor, output_type: str) -> Any:
        x = self._decode(z) if self.vae is not None else z
        if output_type == "pt":
            return x
        levels = x.float().add(1.0).mul(127.5).round().clamp(0, 255).to(torch.uint8)
        pixels = levels.movedim(1, -1).cpu().numpy()
        if output_type == "np":
            return pixels
        if pixels.ndim == 5:
            return [[_picture(frame) for frame in video] for video in pixels]
        return [_picture(image) for image in pixels]

    def _decode(self, z: Tensor) -> Tensor:
        """Return pixels (B, 3, H, W) in about [-1, 1] of samples; of clips, (B, 3, T, H, W), decoded frame by
        frame."""
        if z.ndim == 5:
            return self._decode(z.transpose(1, 2).flatten(0, 1)).unflatten(0, (len(z), -1)).transpose(1, 2)
        config = self.transformer.config
        divisor, offset = (
            _by_place(torch.tensor(one, device=z.device), *z.shape[2:])
            for one in (config.latent_divisor, config.latent_offset)
        )
        latents = (z.float() * divisor + offset).to(self.vae.dtype)
        images = torch.cat([self._decode_part(part) for part in latents.split(16)])
        return images if config.vae_black else images * 2 - 1

    def _decode_part(self, z: Tensor) -> Tensor:
        """Return what the autoencoder makes of latents, a picture being one frame where it makes videos."""
        config = self.transformer.config
        options = {
            name: torch.full((len(z),), value, device=z.device, dtype=z.dtype) if type(value) is float else value
            for name, value in (config.vae_options or {}).items()
        }
        if config.vae_frames:
            return self.vae.decode(z[:, :, None], **options).sample.squeeze(2)
        return self.vae.decode(z, **options).sample


def _by_place(table: Tensor, height: int, width: int) -> Tensor:
    """Return a number a channel as (C, 1, 1), and a pattern of places, (C, p, q), repeated to (C, h, w)."""
    if table.ndim == 1:
        return table[:, None, None]
    return table.repeat(1, height // table.shape[1], width // table.shape[2])


def _picture(pixels: Any) -> Image.Image:
    return Image.fromarray(pixels[..., 0] if pixels.shape[-1] == 1 else pixels)
