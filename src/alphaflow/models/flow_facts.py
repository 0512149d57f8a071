"""What there is to know of diffusers' flow networks: the time they are told, what they answer, how they take z.

All of them are trained on z = (1 - σ) x + σ ε, diffusers' FlowMatchEulerDiscreteScheduler, so that σ is t here.
What differs is the number that stands for t, the sign of the answer, and the layout of z. Each line was read in
the pipeline of diffusers 0.42.1 that calls the network; nothing here imports diffusers.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from alphaflow.errors import UserError

GUIDANCE = 3.5
"""The scale told to a network with guidance distilled into it (FLUX.1-dev), where nobody says another: its
pipeline's own."""


@dataclass(frozen=True, kw_only=True)
class FlowFacts:
    """A flow network's facts. Those of another class than the table's are a `FlowFacts`, or a subclass of it.

    Paths name parts of the network: "time_embed.emb".
    """

    unit: float = 1000.0
    """The number that the network is told at t = 1."""
    backwards: bool = False
    """The network is told unit · (1 - t), and answers x - ε: its time runs from noise to data."""
    inner: float = 1.0
    """The number by which the network multiplies what it is told before its embedding sees it."""
    embedding: str = "time_text_embed"
    """The part whose output the blocks are given, called with the time and other things."""
    place: int = 0
    """The place of the time among these."""
    vector: str = "time_text_embed.timestep_embedder"
    """The part of it that makes a vector (B, D) of the time's sinusoids; has `linear_2`."""
    project: str = "time_text_embed.time_proj"
    """The part that makes those sinusoids."""
    blocks: tuple[str, ...] = ("transformer_blocks",)
    """The lists of blocks that are given the embedding, in order."""
    argument: int | str = "temb"
    """The argument of a block that is the embedding: its place, or its name."""
    part: int | None = None
    """Which of the embedding's outputs that is, where it has several."""
    last: tuple[str, int | None] | None = ("norm_out", None)
    """A part behind the blocks that is given an output of the embedding as its second argument, and which; None:
    there is none that can be told another."""
    width: str = "joint_attention_dim"
    """The setting that says how many features a token of the condition has."""
    pooled: str = ""
    """The setting that says how many features `pooled_projections` has; "": the network takes none."""
    mask: str = ""
    """The argument that says which tokens there are; "": the network takes none."""
    ragged: bool = True
    """Whether rows may have different numbers of tokens; else all count."""
    dimensions: int = 4
    """Of z with its batch: 4 for images, 5 for videos."""

    def channels(self, config: Mapping[str, Any]) -> tuple[int, int]:
        """Return the channels of z, and of the network's answer."""
        taken = config["in_channels"]
        return taken, config["out_channels"] or taken

    def patch(self, config: Mapping[str, Any]) -> tuple[int, ...]:
        """Return what the last sides of z divide by."""
        return (config["patch_size"],) * 2

    def check(self, config: Mapping[str, Any]) -> None:
        """Refuse a variant whose answer is no velocity of z.

        Raises:
            UserError: says why.
        """
        taken, given = self.channels(config)
        if given != taken:
            raise UserError(
                f"the network takes {taken} channels and gives {given}: a velocity has as many as z, so this one "
                "predicts a variance as well, or is told pictures beside z; give a plain text-to-image network"
            )

    def pack(self, z: Tensor, config: Mapping[str, Any]) -> tuple[Tensor, dict[str, Any]]:
        """Return z as the network takes it, and the arguments that say what it looks like."""
        return z, {}

    def unpack(self, out: Tensor, z: Tensor, config: Mapping[str, Any]) -> Tensor:
        """Return the network's answer in the shape of z."""
        return out

    def further(self, z: Tensor, tokens: int, config: Mapping[str, Any]) -> dict[str, Any]:
        """Return the arguments that depend on neither z's values nor the condition's. tokens: of the condition."""
        return {}


class _Packed(FlowFacts):
    """Squares of 2 × 2 are tokens, (B, H/2 · W/2, 4 C), channels before places."""

    def channels(self, config: Mapping[str, Any]) -> tuple[int, int]:
        given = config["out_channels"] or config["in_channels"]
        return config["in_channels"] // 4, given // 4

    def patch(self, config: Mapping[str, Any]) -> tuple[int, ...]:
        return (2, 2)

    def pack(self, z: Tensor, config: Mapping[str, Any]) -> tuple[Tensor, dict[str, Any]]:
        B, C, H, W = z.shape
        squares = z.reshape(B, C, H // 2, 2, W // 2, 2).permute(0, 2, 4, 1, 3, 5)
        return squares.reshape(B, H // 2 * (W // 2), 4 * C), {}

    def unpack(self, out: Tensor, z: Tensor, config: Mapping[str, Any]) -> Tensor:
        B, C, H, W = z.shape
        return out.reshape(B, H // 2, W // 2, C, 2, 2).permute(0, 3, 1, 4, 2, 5).reshape(B, C, H, W)


class _Flux(_Packed):
    def further(self, z: Tensor, tokens: int, config: Mapping[str, Any]) -> dict[str, Any]:
        h, w = z.shape[2] // 2, z.shape[3] // 2
        rows, columns = torch.meshgrid(torch.arange(h), torch.arange(w), indexing="ij")
        places = torch.stack([torch.zeros_like(rows), rows, columns], dim=-1).reshape(h * w, 3)
        given: dict[str, Any] = {
            "img_ids": places.to(z.device, torch.float32),
            "txt_ids": torch.zeros(tokens, 3, device=z.device),
        }
        if config["guidance_embeds"]:
            given["guidance"] = torch.full(z.shape[:1], GUIDANCE, device=z.device)
        return given


class _Qwen(_Packed):
    def channels(self, config: Mapping[str, Any]) -> tuple[int, int]:
        taken, given = config["in_channels"], config["out_channels"] or config["in_channels"]
        return taken // 4, given * config["patch_size"] ** 2 // 4

    def check(self, config: Mapping[str, Any]) -> None:
        super().check(config)
        if config.get("zero_cond_t") or config.get("use_additional_t_cond") or config.get("use_layer3d_rope"):
            raise UserError(
                "this QwenImageTransformer2DModel edits or layers pictures (zero_cond_t, use_additional_t_cond or "
                "use_layer3d_rope), and takes more than z and words: give the text-to-image network"
            )

    def further(self, z: Tensor, tokens: int, config: Mapping[str, Any]) -> dict[str, Any]:
        return {"img_shapes": [[(1, z.shape[2] // 2, z.shape[3] // 2)]] * len(z)}


class _Sana(FlowFacts):
    def check(self, config: Mapping[str, Any]) -> None:
        super().check(config)
        if config["guidance_embeds"]:
            raise UserError(
                "a SanaTransformer2DModel with guidance_embeds is SANA-Sprint, a consistency model in times of "
                "its own (TrigFlow): it predicts no velocity; give SANA itself"
            )
        if config.get("timestep_scale", 1.0) != 1.0:
            raise UserError(
                f"timestep_scale {config['timestep_scale']:g} is SANA-Sprint's: it predicts no velocity; give SANA"
            )


class _LTX(FlowFacts):
    def channels(self, config: Mapping[str, Any]) -> tuple[int, int]:
        volume = config["patch_size_t"] * config["patch_size"] ** 2
        return config["in_channels"] // volume, (config["out_channels"] or config["in_channels"]) // volume

    def patch(self, config: Mapping[str, Any]) -> tuple[int, ...]:
        return (config["patch_size_t"], config["patch_size"], config["patch_size"])

    def pack(self, z: Tensor, config: Mapping[str, Any]) -> tuple[Tensor, dict[str, Any]]:
        sides = [side // one for side, one in zip(z.shape[2:], self.patch(config))]
        split = [number for pair in zip(sides, self.patch(config)) for number in pair]
        cut = z.reshape(*z.shape[:2], *split).permute(0, 2, 4, 6, 1, 3, 5, 7)
        packed = cut.reshape(len(z), math.prod(sides), -1)
        return packed, {"num_frames": sides[0], "height": sides[1], "width": sides[2]}

    def unpack(self, out: Tensor, z: Tensor, config: Mapping[str, Any]) -> Tensor:
        sides = [side // one for side, one in zip(z.shape[2:], self.patch(config))]
        cut = out.reshape(len(z), *sides, z.shape[1], *self.patch(config))
        return cut.permute(0, 4, 1, 5, 2, 6, 3, 7).reshape(z.shape)


class _Wan(FlowFacts):
    def patch(self, config: Mapping[str, Any]) -> tuple[int, ...]:
        return tuple(config["patch_size"])

    def check(self, config: Mapping[str, Any]) -> None:
        super().check(config)
        if config.get("image_dim") is not None:
            raise UserError(
                "this WanTransformer3DModel is told a picture beside words (image_dim): give the text-to-video one"
            )


FACTS: Mapping[str, FlowFacts] = {
    "SD3Transformer2DModel": FlowFacts(pooled="pooled_projection_dim"),
    "FluxTransformer2DModel": _Flux(
        unit=1.0,
        inner=1000.0,
        blocks=("transformer_blocks", "single_transformer_blocks"),
        pooled="pooled_projection_dim",
    ),
    "SanaTransformer2DModel": _Sana(
        embedding="time_embed",
        vector="time_embed.emb.timestep_embedder",
        project="time_embed.emb.time_proj",
        argument=4,
        part=0,
        last=("norm_out", 1),
        width="caption_channels",
        mask="encoder_attention_mask",
    ),
    "Lumina2Transformer2DModel": FlowFacts(
        unit=1.0,
        backwards=True,
        embedding="time_caption_embed",
        place=1,
        vector="time_caption_embed.timestep_embedder",
        project="time_caption_embed.time_proj",
        blocks=("layers",),
        argument=3,
        part=0,
        last=("norm_out", 0),
        width="cap_feat_dim",
        mask="encoder_attention_mask",
        ragged=False,
    ),
    "AuraFlowTransformer2DModel": FlowFacts(
        unit=1.0,
        embedding="time_step_proj",
        vector="time_step_proj",
        project="time_step_embed",
        blocks=("joint_transformer_blocks", "single_transformer_blocks"),
    ),
    "QwenImageTransformer2DModel": _Qwen(unit=1.0, mask="encoder_hidden_states_mask"),
    "LTXVideoTransformer3DModel": _LTX(
        embedding="time_embed",
        vector="time_embed.emb.timestep_embedder",
        project="time_embed.emb.time_proj",
        part=0,
        last=None,
        width="caption_channels",
        mask="encoder_attention_mask",
        dimensions=5,
    ),
    "WanTransformer3DModel": _Wan(
        embedding="condition_embedder",
        vector="condition_embedder.time_embedder",
        project="condition_embedder.timesteps_proj",
        blocks=("blocks",),
        argument=2,
        part=1,
        last=None,
        width="text_dim",
        dimensions=5,
    ),
}
"""By the names of diffusers' classes."""

NOISE = (
    "DiTTransformer2DModel",
    "PixArtTransformer2DModel",
    "Transformer2DModel",
    "HunyuanDiT2DModel",
    "UNet2DConditionModel",
    "UNet2DModel",
    "CogVideoXTransformer3DModel",
    "LatteTransformer3DModel",
    "StableAudioDiTModel",
)
"""Classes whose published networks predict noise, or a v of another path."""


def facts_of(class_name: str) -> FlowFacts:
    """Return the facts of one of diffusers' classes.

    Raises:
        UserError: it predicts noise, or is not known.
    """
    if class_name in NOISE:
        raise UserError(
            f"a {class_name} predicts noise (or v) on a diffusion's path, and noise is no velocity: adapt takes "
            f"flow networks, {', '.join(FACTS)}"
        )
    if class_name not in FACTS:
        raise UserError(
            f"no facts are known of a {class_name[:80]}: adapt knows {', '.join(FACTS)}; for another, in Python: "
            "af.adapt(model, facts=FlowFacts(...))"
        )
    return FACTS[class_name]
