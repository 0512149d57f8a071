"""The detectors by name: which file each is, and how pixels reach it."""

import io
import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from alphaflow.errors import UserError, choose
from alphaflow.fetched import PublishedFile
from alphaflow.metrics.detectors.base import Detector, load_digits_detector
from alphaflow.metrics.detectors.fashion import load_fashion_detector
from alphaflow.metrics.detectors.shapes import load_shapes_detector
from alphaflow.metrics.detectors.vits import ClassToken, ImageEmbedding

_IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
_CLIP = ((0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711))
_SIDE = 224  # of what DINOv2, CLIP and I3D see


class Inception(nn.Module):
    """Features (N, 2048) and logits (N, 1008) of levels (N, 3, H, W), 0 to 255, of any size.

    The file resizes as TensorFlow 1 did. Logits leave out the output's bias, as the Inception Score's first
    implementation does.
    """

    def __init__(self, content: bytes) -> None:
        super().__init__()
        self.net = _torchscript(content)

    def forward(self, levels: Tensor) -> tuple[Tensor, Tensor]:
        features = self.net(levels, return_features=True)
        return features, F.linear(features, self.net.output.weight)


class I3D(nn.Module):
    """Features (N, 400) of levels (N, 3, T, H, W), 0 to 255; T at least 10."""

    def __init__(self, content: bytes) -> None:
        super().__init__()
        self.net = _torchscript(content)

    def forward(self, levels: Tensor) -> tuple[Tensor, Tensor]:
        features = self.net(levels.float(), rescale=True, resize=True, return_features=True)
        return features, features[:, :0]


class DINOv2(nn.Module):
    """Features (N, 1024) of levels (N, 3, H, W), 0 to 255: squeezed to a square, as the FDD's authors do."""

    mean: Tensor
    std: Tensor

    def __init__(self, content: bytes) -> None:
        super().__init__()
        published = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
        self.net = ClassToken(published, _SIDE)
        _keep(self, _IMAGENET)

    def forward(self, levels: Tensor) -> tuple[Tensor, Tensor]:
        x = F.interpolate(levels.float(), size=(_SIDE, _SIDE), mode="bicubic", antialias=True) / 255
        features = self.net((x - self.mean) / self.std)
        return features, features[:, :0]


class CLIP(nn.Module):
    """Features (N, 512 or 768) of levels (N, 3, H, W), 0 to 255: the shorter side to 224, and the middle of that.

    OpenAI's preprocessing goes through Pillow; see `shorter_side_to`.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, content: bytes) -> None:
        super().__init__()
        published = _torchscript(content).state_dict()  # of a graph in float16, of which only the tensors are used
        self.net = ImageEmbedding(published, _SIDE)
        _keep(self, _CLIP)

    def forward(self, levels: Tensor) -> tuple[Tensor, Tensor]:
        features = self.net((shorter_side_to(levels, _SIDE) / 255 - self.mean) / self.std)
        return features, features[:, :0]


def shorter_side_to(levels: Tensor, size: int) -> Tensor:
    """Return whole levels (N, C, size, size), float32, of levels (N, C, H, W): bicubic, antialiased, the middle
    kept.

    Levels are rounded and clamped after either pass, as Pillow does: that alone makes up to 5 levels in noise.
    """
    H, W = levels.shape[-2:]
    shape = (size, int(size * W / H)) if H <= W else (int(size * H / W), size)
    x = levels.float()
    for pass_ in ((H, shape[1]), shape):  # along rows, then along columns
        x = F.interpolate(x, size=pass_, mode="bicubic", antialias=True).round_().clamp_(0, 255)
    top, left = (round((side - size) / 2) for side in shape)
    return x[..., top : top + size, left : left + size]


@dataclass(frozen=True, kw_only=True)
class Published:
    """A detector whose weights somebody else published."""

    weights: PublishedFile
    network: Callable[[bytes], nn.Module]
    preprocessing: str
    distance: str
    """The literature's name for the Fréchet distance of its features."""
    classes: Literal["none", "its own"] = "none"
    """Whether it gives logits."""
    video: bool = False
    at_once: int = 64
    shortest: int = 1
    """Frames of the shortest video that it takes."""


_OPENAI = "https://openaipublic.azureedge.net/clip/models"
_CLIP_WORDS = "shorter side to 224 bicubic antialiased, rounded, centre crop, CLIP's mean and std"

PUBLISHED: dict[str, Published] = {
    "inception": Published(
        weights=PublishedFile(
            "inception-2015-12-05.pt",
            "https://nvlabs-fi-cdn.nvidia.com/stylegan2-ada-pytorch/pretrained/metrics/inception-2015-12-05.pt",
            "f58cb9b6ec323ed63459aa4fb441fe750cfe39fafad6da5cb504a16f19e958f4",
        ),
        network=Inception,
        preprocessing="8-bit levels, to 299 bilinear as TensorFlow 1",
        distance="FID",
        classes="its own",
    ),
    "dinov2": Published(
        weights=PublishedFile(
            "dinov2_vitl14_pretrain.pth",
            "https://dl.fbaipublicfiles.com/dinov2/dinov2_vitl14/dinov2_vitl14_pretrain.pth",
            "d5383ea8f4877b2472eb973e0fd72d557c7da5d3611bd527ceeb1d7162cbf428",
        ),
        network=DINOv2,
        preprocessing="to 224 bicubic antialiased, ImageNet's mean and std",
        distance="FDD",
    ),
    "clip": Published(
        weights=PublishedFile(
            "ViT-B-32.pt",
            f"{_OPENAI}/40d365715913c9da98579312b702a82c18be219cc2a73407c4526f58eba950af/ViT-B-32.pt",
            "40d365715913c9da98579312b702a82c18be219cc2a73407c4526f58eba950af",
        ),
        network=CLIP,
        preprocessing=_CLIP_WORDS,
        distance="FCD",
    ),
    "clip-l": Published(
        weights=PublishedFile(
            "ViT-L-14.pt",
            f"{_OPENAI}/b8cca3fd41ae0c99ba7e8951adf17d267cdb84cd88be6f7c2e0eca1737a03836/ViT-L-14.pt",
            "b8cca3fd41ae0c99ba7e8951adf17d267cdb84cd88be6f7c2e0eca1737a03836",
        ),
        network=CLIP,
        preprocessing=_CLIP_WORDS,
        distance="FCD-L",
    ),
    "i3d": Published(
        weights=PublishedFile(
            "i3d_torchscript.pt",
            "https://www.dropbox.com/s/ge9e5ujwgetktms/i3d_torchscript.pt?dl=1",
            "bec6519f66ea534e953026b4ae2c65553c17bf105611c746d904657e5860a5e2",
        ),
        network=I3D,
        preprocessing="8-bit levels scaled to [-1, 1], to 224 bilinear, by the file itself",
        distance="FVD",
        video=True,
        at_once=8,
        shortest=10,
    ),
}
_OWN = {"digits": load_digits_detector, "fashion": load_fashion_detector, "shapes": load_shapes_detector}
DETECTORS = (*_OWN, *PUBLISHED)
"""All names that `load_detector` knows."""


def load_detector(
    name: str, *, path: str | os.PathLike[str] | None = None, device: torch.device | str = "cpu"
) -> Detector:
    """Return the detector of that name, ready to use.

    Args:
        name: one of `DETECTORS`.
        path: its file, or a folder with it; None: the cache, into which it is fetched once.
        device: the device of its network.

    Raises:
        UserError: the name is unknown, a file is given for the detector that comes with the package, the file is
            missing, cannot be fetched or is not the published one, or a package is not installed.
    """
    choose("detector", name, DETECTORS, status=2)
    if name in _OWN:
        if path is not None:
            raise UserError(f"the detector {name} comes with the package: leave --detector-path out", status=2)
        return _OWN[name](device)
    published = PUBLISHED[name]
    content = published.weights.read(path)
    network = published.network(content).eval().requires_grad_(False).to(device)
    return Detector(
        name=name,
        sha256=published.weights.sha256,
        image_shape=(*((None,) if published.video else ()), None, None, 3),
        network=network,
        preprocessing=published.preprocessing,
        takes="levels",
        device=device,
        at_once=published.at_once,
        shortest=published.shortest,
        classes=published.classes,
        distance=published.distance,
    )


def _torchscript(content: bytes) -> torch.jit.ScriptModule:
    return torch.jit.load(io.BytesIO(content), map_location="cpu").eval()


def _keep(module: nn.Module, normalisation: tuple[tuple[float, ...], tuple[float, ...]]) -> None:
    """Keep mean and std, (3, 1, 1) each, in the module, so that they move with it."""
    for name, value in zip(("mean", "std"), normalisation):
        module.register_buffer(name, torch.tensor(value)[:, None, None], persistent=False)
