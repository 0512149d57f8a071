"""Diffusion transformers as other code bases lay them out, written anew from the papers' facts, with random
weights, and checkpoints of them in the forms that those code bases write.

The classes here are pickled under foreign names: `as_foreign` puts them into modules that exist only while a
checkpoint is written, so that nothing can look them up afterwards.
"""

import argparse
import contextlib
import io
import pickle
import struct
import sys
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

import alphaflow as af

WIDTH, HEADS, DEPTH, PATCH, SIDE, CLASSES = 24, 3, 2, 2, 8, 5
TIMES = {
    "alphaflow": ("noise_labels_embedder", "noise_labels_next_embedder"),
    "meanflow": ("t_embedder", "r_embedder"),
    "sit": ("t_embedder",),
    "repa": ("t_embedder",),
    "jax-meanflow": ("t_embedder", "h_embedder"),
    "soflow": ("t_embedder", "s_embedder"),
}


class Holder(nn.Module):
    """Sub-modules by name."""

    def __init__(self, **modules: nn.Module) -> None:
        super().__init__()
        for name, module in modules.items():
            setattr(self, name, module)


def sequence(*layers: nn.Module) -> nn.Sequential:
    return nn.Sequential(*layers)


class SiT(nn.Module):
    """DiT with one or two times. channels of the output: twice the input's where a variance is learnt."""

    def __init__(
        self, times: tuple[str, ...], *, channels: int = 4, rows: int = CLASSES + 1, out: int = 4
    ) -> None:
        super().__init__()
        self.times, self.out = times, out
        self.x_embedder = Holder(proj=nn.Conv2d(channels, WIDTH, PATCH, stride=PATCH))
        for name in times:
            mlp = sequence(nn.Linear(256, WIDTH), nn.SiLU(), nn.Linear(WIDTH, WIDTH))
            setattr(self, name, Holder(mlp=mlp))
        self.y_embedder = Holder(embedding_table=nn.Embedding(rows, WIDTH))
        self.pos_embed = nn.Parameter(torch.from_numpy(positions()).float()[None], requires_grad=False)
        self.blocks = nn.ModuleList(
            Holder(
                norm1=nn.LayerNorm(WIDTH, 1e-6, elementwise_affine=False),
                norm2=nn.LayerNorm(WIDTH, 1e-6, elementwise_affine=False),
                attn=Holder(qkv=nn.Linear(WIDTH, 3 * WIDTH), proj=nn.Linear(WIDTH, WIDTH)),
                mlp=Holder(fc1=nn.Linear(WIDTH, 4 * WIDTH), fc2=nn.Linear(4 * WIDTH, WIDTH)),
                adaLN_modulation=sequence(nn.SiLU(), nn.Linear(WIDTH, 6 * WIDTH)),
            )
            for _ in range(DEPTH)
        )
        self.final_layer = Holder(
            norm_final=nn.LayerNorm(WIDTH, 1e-6, elementwise_affine=False),
            linear=nn.Linear(WIDTH, PATCH * PATCH * out),
            adaLN_modulation=sequence(nn.SiLU(), nn.Linear(WIDTH, 2 * WIDTH)),
        )
        for weight in self.parameters():
            if weight.requires_grad:
                nn.init.normal_(weight, std=0.3 if weight.ndim < 2 else weight[0].numel() ** -0.5)

    def forward(self, x: Tensor, times: tuple[Tensor, ...], y: Tensor) -> Tensor:
        """x (B, C, H, W); times (B,), one for each embedding; y (B,)."""
        B, _, H, W = x.shape
        h = self.x_embedder.proj(x).flatten(2).transpose(1, 2) + self.pos_embed
        c = self.y_embedder.embedding_table(y)
        for name, time in zip(self.times, times):
            c = c + getattr(self, name).mlp(waves(time))
        for block in self.blocks:
            a = block.adaLN_modulation(c)[:, None].chunk(6, dim=-1)
            q, k, v = block.attn.qkv(block.norm1(h) * (1 + a[1]) + a[0]).chunk(3, dim=-1)
            heads = [one.reshape(B, -1, HEADS, WIDTH // HEADS).transpose(1, 2) for one in (q, k, v)]
            attended = nn.functional.scaled_dot_product_attention(*heads).transpose(1, 2).reshape(B, -1, WIDTH)
            h = h + a[2] * block.attn.proj(attended)
            hidden = nn.functional.gelu(block.mlp.fc1(block.norm2(h) * (1 + a[4]) + a[3]), approximate="tanh")
            h = h + a[5] * block.mlp.fc2(hidden)
        shift, scale = self.final_layer.adaLN_modulation(c)[:, None].chunk(2, dim=-1)
        u = self.final_layer.linear(self.final_layer.norm_final(h) * (1 + scale) + shift)
        u = u.reshape(B, H // PATCH, W // PATCH, PATCH, PATCH, self.out).permute(0, 5, 1, 3, 2, 4)
        return u.reshape(B, self.out, H, W)[:, : x.shape[1]]  # a learnt variance is of no use here


def waves(t: Tensor) -> Tensor:
    angles = t[:, None].double() * torch.logspace(0, -4 * 127 / 128, 128, dtype=torch.float64)
    return torch.cat([angles.cos(), angles.sin()], dim=1).to(t)


def positions() -> np.ndarray:
    """(tokens, width), as in MAE: half of the features for the column, half for the row."""
    side, quarter = SIDE // PATCH, WIDTH // 4
    omega = 10_000.0 ** -(np.arange(quarter) / quarter)
    row, column = (grid.reshape(-1, 1) * omega for grid in np.mgrid[:side, :side].astype(np.float64))
    return np.concatenate([np.sin(column), np.cos(column), np.sin(row), np.cos(row)], axis=1)


def make(layout: str, seed: int = 0, **options: Any) -> SiT:
    """A network of this layout with random weights."""
    torch.manual_seed(seed)
    return SiT(TIMES[layout], **options).eval()


def coarse(layout: str, seed: int = 0) -> SiT:
    """The same with weights rounded to eighths, which pack well."""
    net = make(layout, seed)
    with torch.no_grad():
        for weight in net.parameters():
            if weight.requires_grad:
                weight.copy_((8 * weight).round() / 8)
    return net


def velocity(net: SiT, layout: str, z: Tensor, r: Tensor, t: Tensor, y: Tensor) -> Tensor:
    """What the network predicts, in the convention with noise at t = 1."""
    if layout == "sit":  # data at 1, the velocity towards it
        return -net(z, (1 - t,), y)
    return net(z, (t, t - r)[: len(net.times)], y)


def flax_tree(net: SiT) -> dict[str, Any]:
    """The parameters as Flax's tree, under the names that MeanFlow's JAX code gives them."""
    tree: dict[str, Any] = {}
    for name, value in net.state_dict().items():
        words, array = name.split("."), value.numpy()
        if name == "pos_embed":
            continue
        if name == "x_embedder.proj.weight":
            words, array = ["x_embedder", "proj", "kernel"], array.transpose(2, 3, 1, 0)
        elif words[0] == "y_embedder":
            words = ["y_embedder", "embedding_table", "_flax_embedding", "embedding"]
        elif words[0] != "x_embedder":
            ends = {"weight": "kernel", "bias": "bias"}
            words = [f"layers_{word}" if word.isdigit() else word for word in words]
            words = [*words[:-1], "_flax_linear", ends[words[-1]]]
            array = array.T
        place = tree
        for word in words[:-1]:
            place = place.setdefault(word, {})
        place[words[-1]] = np.ascontiguousarray(array)
    return tree


def flat(tree: dict[str, Any], above: str = "") -> dict[str, np.ndarray]:
    found: dict[str, np.ndarray] = {}
    for key, value in tree.items():
        found |= flat(value, f"{above}{key}/") if isinstance(value, dict) else {above + key: value}
    return found


@contextlib.contextmanager
def as_foreign(**classes: type) -> Iterator[None]:
    """While this lasts, classes are pickled under foreign names: by the key src__structs as `src.structs.X`."""
    before = {one: (one.__module__, one.__qualname__) for one in classes.values()}
    made = []
    for key, one in classes.items():
        words = key.split("__")
        for k in range(len(words)):  # with the packages that they lie in
            made.append(".".join(words[: k + 1]))
            sys.modules.setdefault(made[-1], types.ModuleType(made[-1]))
        name = made[-1]
        setattr(sys.modules[name], one.__name__, one)
        one.__module__, one.__qualname__ = name, one.__name__
    try:
        yield
    finally:
        for name in made:
            sys.modules.pop(name, None)
        for one, (module_name, qualified) in before.items():
            one.__module__, one.__qualname__ = module_name, qualified


class EasyDict(dict):  # type: ignore[type-arg]
    """A dictionary whose entries are attributes, as many code bases have one."""


class TensorGroup:
    """An object with slots of tensors."""

    def __init__(self, **tensors: Tensor) -> None:
        self.tensors = tensors


class Node:
    """OmegaConf's leaf."""

    def __init__(self, value: Any) -> None:
        self._val = value


class DictConfig:
    """OmegaConf's branch."""

    def __init__(self, content: dict[str, Any]) -> None:
        self._content = {key: wrap(value) for key, value in content.items()}
        self._metadata = self  # it knows itself, as OmegaConf's nodes know their parents


def wrap(value: Any) -> Any:
    return DictConfig(value) if isinstance(value, dict) else Node(value)


MEAN = torch.linspace(-1, 1, 4 * SIDE * SIDE, dtype=torch.float64).reshape(1, 4, SIDE, SIDE)
VARIANCE = torch.linspace(0.5, 30, 4 * SIDE * SIDE, dtype=torch.float64).reshape(1, 4, SIDE, SIDE)
SETTINGS = {"model": {"num_heads": HEADS, "dim": WIDTH}, "dataset": {"label_shape": [CLASSES]}}


def alphaflow_state(net: SiT) -> dict[str, Tensor]:
    """The state of the release's latent diffusion: the network below `model.`, the autoencoder, the statistics."""
    state = {f"model.{name}": value for name, value in net.state_dict().items()}
    state |= {"autoencoder.model.encoder.conv_in.weight": torch.zeros(3)}
    return state | {
        "autoencoder_mean": MEAN,
        "autoencoder_var": VARIANCE,
        "are_ldm_stats_inited": torch.tensor(1.0),
    }


def alphaflow_snapshot(net: SiT, ema: SiT) -> dict[str, Any]:
    """What the release saves: `net`, `ema`, `cfg` and more."""
    return {
        "net": alphaflow_state(net),
        "ema": alphaflow_state(ema),
        "optimizer": None,
        "cfg": SETTINGS,
        "stats": {"cur_step": 1200},
    }


def torch_bytes(value: Any, *, zipped: bool = True) -> bytes:
    memory = io.BytesIO()
    torch.save(value, memory, _use_new_zipfile_serialization=zipped)
    return memory.getvalue()


def zhuyu_checkpoint(net: SiT, ema: SiT) -> dict[str, Any]:
    """What MeanFlow in PyTorch saves; the network as DDP and torch.compile rename it."""
    return {
        "model": {f"module._orig_mod.{name}": value for name, value in net.state_dict().items()},
        "ema": ema.state_dict(),
        "opt": {"state": {0: {"exp_avg": torch.zeros(2)}}},
        "args": argparse.Namespace(model="SiT-B/4", num_heads=HEADS, num_classes=CLASSES),
        "steps": 400,
    }


def write(path: Path, data: bytes) -> Path:
    path.write_bytes(data)
    return path


def pack(value: Any) -> bytes:
    """msgpack as Flax writes it: maps, strings, integers, and arrays as extension 1."""
    if isinstance(value, dict):
        return b"\xdf" + struct.pack(">I", len(value)) + b"".join(pack(k) + pack(v) for k, v in value.items())
    if isinstance(value, tuple | list):
        return b"\xdc" + struct.pack(">H", len(value)) + b"".join(map(pack, value))
    if isinstance(value, str):
        return b"\xd9" + struct.pack(">B", len(value)) + value.encode()
    if isinstance(value, bool):
        return b"\xc3" if value else b"\xc2"
    if isinstance(value, int):
        return struct.pack(">B", value) if value < 128 else b"\xce" + struct.pack(">I", value)
    if isinstance(value, bytes):
        return b"\xc6" + struct.pack(">I", len(value)) + value
    inside = pack((value.shape, value.dtype.name, value.tobytes()))
    return b"\xc9" + struct.pack(">I", len(inside)) + b"\x01" + inside


class Persistent:
    """An object that EDM's persistence pickles: a call of a foreign function on its source and its state."""

    def __init__(self, module: nn.Module) -> None:
        self.module = module

    def __reduce__(self) -> Any:
        source = "raise SystemExit('this must never run')"
        meta = EasyDict(type="class", module_src=source, class_name="Precond", state=vars(self.module))
        return restore, (meta,)


def restore(meta: Any) -> None:
    """Stands for `torch_utils.persistence._reconstruct_persistent_obj`."""


def pickled(value: Any, protocol: int = 4) -> bytes:
    return pickle.dumps(value, protocol)


def inputs(seed: int = 1) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """z, r, t, y of six rows in float64; the last label is that of no class."""
    source = torch.Generator().manual_seed(seed)
    z = torch.randn(6, 4, SIDE, SIDE, generator=source, dtype=torch.float64)
    r, t = torch.rand(2, 6, generator=source, dtype=torch.float64).sort(dim=0).values
    return z, r, t, torch.arange(6)


def same(folder: Path, net: SiT, layout: str, rows: slice = slice(None)) -> None:
    """Our network computes what theirs does, in float64 so that only the taking over is judged."""
    z, r, t, y = (part[rows] for part in inputs())
    with torch.no_grad():
        ours = af.load(folder).net.double()(z, r, t, y)
        expected = velocity(net.double(), layout, z, r, t, y)
    net.float()
    assert expected.std() > 0.1
    torch.testing.assert_close(ours, expected, rtol=0, atol=1e-6)


def alphaflow_file(path: Path, form: str = "zip", **options: Any) -> tuple[Path, SiT, SiT]:
    """A snapshot of the release as torch.save writes it, wrote it, or as a pickle; its network and its average."""
    net, ema = make("alphaflow", 1, **options), make("alphaflow", 2, **options)
    snapshot = alphaflow_snapshot(net, ema)
    with as_foreign(
        src__structs=EasyDict,
        src__data=TensorGroup,
        omegaconf__x=DictConfig,
        omegaconf__nodes=Node,
    ):
        snapshot["vis"] = TensorGroup(noise=torch.zeros(2))
        snapshot["cfg"] = {
            "zip": SETTINGS,
            "old": EasyDict(SETTINGS),
            "pickle": DictConfig(SETTINGS),
        }[form]
        data = pickled(snapshot) if form == "pickle" else torch_bytes(snapshot, zipped=form == "zip")
    return write(path, data), net, ema
