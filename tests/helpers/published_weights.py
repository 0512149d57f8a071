"""Small networks that are called, named and saved as the published ones are, written from their papers.

They share no code with what reads them: the features read back must equal those computed here.
"""

import io
import warnings
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

WIDTH, HEADS = 128, 2
Publish = Callable[..., Path]
"""(name, content) -> file: the fixture `publish`."""


class TinyInception(nn.Module):
    """Called as `inception-2015-12-05.pt` is."""

    def __init__(self) -> None:
        super().__init__()
        self.output = nn.Linear(6, 5)

    def forward(
        self, img: Tensor, return_features: bool = False, use_fp16: bool = False, no_output_bias: bool = False
    ) -> Tensor:
        x = img.to(torch.float32) / 127.5 - 1
        features = torch.cat([x.mean((2, 3)), x.std((2, 3))], dim=1)
        if return_features:
            return features
        logits = F.linear(features, self.output.weight) if no_output_bias else self.output(features)
        return logits.softmax(1)


class TinyI3D(nn.Module):
    """Called as `i3d_torchscript.pt` is."""

    def forward(
        self, x: Tensor, rescale: bool = False, resize: bool = False, return_features: bool = False
    ) -> Tensor:
        if rescale:
            x = x * (2 / 255) - 1
        if resize:
            x = F.interpolate(x, size=[x.shape[2], 8, 8], mode="trilinear")
        features = torch.cat([x.mean((2, 3, 4)), x.diff(dim=2).abs().mean((2, 3, 4))], dim=1)
        return features if return_features else features.softmax(1)


class DinoBlock(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(WIDTH, eps=1e-6)
        self.attn = nn.ModuleDict({"qkv": nn.Linear(WIDTH, 3 * WIDTH), "proj": nn.Linear(WIDTH, WIDTH)})
        self.ls1 = nn.ParameterDict({"gamma": torch.rand(WIDTH)})
        self.norm2 = nn.LayerNorm(WIDTH, eps=1e-6)
        self.mlp = nn.ModuleDict({"fc1": nn.Linear(WIDTH, 4 * WIDTH), "fc2": nn.Linear(4 * WIDTH, WIDTH)})
        self.ls2 = nn.ParameterDict({"gamma": torch.rand(WIDTH)})

    def forward(self, x: Tensor) -> Tensor:
        B, L, D = x.shape
        q, k, v = self.attn["qkv"](self.norm1(x)).view(B, L, 3, HEADS, D // HEADS).permute(2, 0, 3, 1, 4)
        weights = (q @ k.mT / (D // HEADS) ** 0.5).softmax(-1)
        x = x + self.ls1["gamma"] * self.attn["proj"]((weights @ v).transpose(1, 2).reshape(B, L, D))
        return x + self.ls2["gamma"] * self.mlp["fc2"](F.gelu(self.mlp["fc1"](self.norm2(x))))


class TinyDINOv2(nn.Module):
    """Named as facebookresearch/dinov2's are; position embeddings of 5 × 5 patches of 14 pixels."""

    def __init__(self) -> None:
        super().__init__()
        self.cls_token = nn.Parameter(torch.randn(1, 1, WIDTH))
        self.mask_token = nn.Parameter(torch.zeros(1, WIDTH))
        self.pos_embed = nn.Parameter(torch.randn(1, 26, WIDTH))
        self.patch_embed = nn.ModuleDict({"proj": nn.Conv2d(3, WIDTH, 14, 14)})
        self.blocks = nn.ModuleList([DinoBlock(), DinoBlock()])
        self.norm = nn.LayerNorm(WIDTH, eps=1e-6)

    def forward(self, x: Tensor) -> Tensor:
        """The class token of normalised images (N, 3, H, W)."""
        patches = self.patch_embed["proj"](x)
        h = patches.shape[-1]
        grid = self.pos_embed[:, 1:].view(1, 5, 5, WIDTH).permute(0, 3, 1, 2)
        grid = F.interpolate(grid, scale_factor=((h + 0.1) / 5, (h + 0.1) / 5), mode="bicubic")
        tokens = torch.cat([self.cls_token.expand(len(x), -1, -1), patches.flatten(2).mT], dim=1)
        tokens = tokens + torch.cat([self.pos_embed[:, :1], grid.flatten(2).mT], dim=1)
        for block in self.blocks:
            tokens = block(tokens)
        return self.norm(tokens)[:, 0]


class QuickGELU(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x * torch.sigmoid(1.702 * x)


class ClipBlock(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.attn = nn.MultiheadAttention(WIDTH, HEADS, batch_first=True)
        self.ln_1, self.ln_2 = nn.LayerNorm(WIDTH), nn.LayerNorm(WIDTH)
        self.mlp = nn.Sequential()
        self.mlp.add_module("c_fc", nn.Linear(WIDTH, 4 * WIDTH))
        self.mlp.add_module("gelu", QuickGELU())
        self.mlp.add_module("c_proj", nn.Linear(4 * WIDTH, WIDTH))
        nn.init.normal_(self.attn.in_proj_bias)

    def forward(self, x: Tensor) -> Tensor:
        h = self.ln_1(x)
        x = x + self.attn(h, h, h, need_weights=False)[0]
        return x + self.mlp(self.ln_2(x))


class Tower(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, WIDTH, 32, 32, bias=False)
        self.class_embedding = nn.Parameter(torch.randn(WIDTH))
        self.positional_embedding = nn.Parameter(torch.randn(50, WIDTH))
        self.ln_pre, self.ln_post = nn.LayerNorm(WIDTH), nn.LayerNorm(WIDTH)
        self.transformer = nn.Module()
        self.transformer.resblocks = nn.Sequential(ClipBlock(), ClipBlock())
        self.proj = nn.Parameter(torch.randn(WIDTH, 16))

    def forward(self, x: Tensor) -> Tensor:
        patches = self.conv1(x).flatten(2).mT
        tokens = torch.cat([self.class_embedding.expand(len(x), 1, -1), patches], dim=1)
        tokens = self.transformer.resblocks(self.ln_pre(tokens + self.positional_embedding))
        return self.ln_post(tokens[:, 0]) @ self.proj


class TinyCLIP(nn.Module):
    """Named as openai/CLIP's are."""

    def __init__(self) -> None:
        super().__init__()
        self.visual = Tower()
        self.text_projection = nn.Parameter(torch.randn(4, 4))

    def forward(self, x: Tensor) -> Tensor:
        """The image embedding of normalised images (N, 3, 224, 224)."""
        return self.visual(x)


def scripted(net: nn.Module) -> bytes:
    """As TorchScript."""
    buffer = io.BytesIO()
    torch.jit.save(torch.jit.script(net), buffer)
    return buffer.getvalue()


def traced_half(net: TinyCLIP) -> bytes:
    """As OpenAI saves: a traced graph, its weights in float16."""
    net.half().float()  # so that the reference has the same weights
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore", torch.jit.TracerWarning)
        graph = torch.jit.trace(net, torch.zeros(1, 3, 224, 224), check_trace=False)
    graph.half()
    buffer = io.BytesIO()
    torch.jit.save(graph, buffer)
    net.float()  # the graph's weights are its own
    return buffer.getvalue()


def pickled(net: nn.Module) -> bytes:
    """As Facebook saves: a state dict."""
    buffer = io.BytesIO()
    torch.save(net.state_dict(), buffer)
    return buffer.getvalue()


class Bomb:
    """A pickle that leaves a mark where it is opened."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[object, tuple[object, ...]]:
        return Path.touch, (self.mark,)
