"""The settings of a run: frozen dataclasses, one field a setting, each with its meaning below it.

A recipe is a value of `Config`; the command line changes single fields by their dotted names; a run's
`config.yaml` holds all of them, resolved. This module loads neither torch nor anything else heavy.
"""

import dataclasses
import operator
import types
import typing
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from ..errors import UserError, choose


@dataclass(frozen=True, kw_only=True)
class DataConfig:
    name: Literal["digits", "toy", "folder", "latents", "moving-digits", "clips", "clip-latents"] = "digits"
    """Which data: scikit-learn's digits, a 2-D toy, images at an address (folder), latents made of them,
    videos of digits that move, video files, or latents of their frames."""
    path: str = ""
    """folder: the address: a directory with one sub-directory for each class, or another form that docs/data.md
    lists. clips: such a directory of videos, or a list, .txt or .csv. latents:
    the DST of `alphaflow encode`."""
    labels: str = ""
    """folder: where labels come from, if not from the data's own: FILE.csv, a column, or none."""
    size: int = 64
    """folder: images are resized and cropped to size × size pixels. moving-digits, clips: of a frame."""
    frames: int = 8
    """moving-digits, clips, clip-latents: frames of a video."""
    rate: float = 8.0
    """clips: frames a second that are taken of a file."""
    crop: Literal["lanczos", "box"] = "lanczos"
    """folder: the central square by Lanczos (α-Flow's), or halved by box and then bicubic (ADM's, DiT's,
    SiT's)."""
    memory: float = 4.0
    """folder: sets that decoded take more than this many GB go into a file of the cache; 0: all."""
    flip: bool = False
    """Mirror images left-right with probability 1/2; latents: take that of the mirrored image."""
    tolerance: float = 0.1
    """folder, clips: share of unreadable files above which training does not start."""
    toy: str = "checkerboard"
    """toy: checkerboard, moons, gaussians or spirals."""
    classes: str = ""
    """Train on these classes only, by number or name: 0,3,7-9 or cat,dog."""
    balanced: bool = False
    """Draw every class equally often, instead of every sample once an epoch."""


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    name: Literal["dit", "video-dit", "mlp", "unet"] = "dit"
    """The network: a diffusion transformer for images or for videos, an MLP for points, a U-Net for pixels."""
    width: int = 96
    """Channels: tokens of the DiT, hidden units of the MLP, the first level of the U-Net."""
    depth: int = 4
    """Blocks (DiT, MLP) or levels (U-Net)."""
    heads: int = 4
    """dit: attention heads."""
    patch: int = 2
    """dit: pixels along the side of a patch."""
    activation: Literal["gelu-tanh", "gelu", "silu"] = "gelu-tanh"
    """dit: of the blocks' MLPs. gelu-tanh is DiT's; silu is the quickest on a CPU."""
    attention: Literal["joint", "factorised"] = "joint"
    """video-dit: each token sees all of the video, or by turns its frame and its place in all frames."""
    predicts: Literal["velocity", "data"] = "velocity"
    """What the network's output means: the average velocity u, or the data f with u = (z - f) / t."""
    guided: bool = False
    """The network takes the scale and the interval of guidance as inputs: one serves all of objective.scales."""


@dataclass(frozen=True, kw_only=True)
class ObjectiveConfig:
    """Unset fields (None) keep what the named member of the family prescribes."""

    name: str = "alphaflow"
    """The member: alphaflow, meanflow, imeanflow, tfm, fm, shortcut, consistency, discrete-consistency,
    splitmeanflow, facm."""
    alpha: str | None = None
    """Schedule of α: a number, or e.g. sigmoid(0%, 100%), linear(0, 500), step(50%); self: α falls when what the
    network sees of its trajectories' curvature has settled (docs/claims.md)."""
    flow_ratio: str | None = None
    """Share of rows with r = t: a number or a schedule, e.g. linear(0%, 100%, first=0.75, last=0.25)."""
    shift: Literal["data", "model", "velocity"] | None = None
    """The velocity that leads from z_t to z_s."""
    derivative: str = "auto"
    """How du/dt is taken: auto, forward, reverse, difference."""
    coupling: Literal["sorted", "minimum", "scaled", "truncated", "dyadic"] | None = None
    """How r goes with t."""
    t_law: str | None = None
    """Distribution of t: logit-normal(-0.4, 1), uniform, constant(1), beta(2, 1), arctan(0, 1)."""
    r_law: str | None = None
    """Distribution of r, or of r / t under the coupling `scaled`."""
    flow_law: str | None = None
    """Distribution of t on rows with r = t; unset: that of t."""
    weight: Literal["adaptive", "scaled", "power", "definition", "uniform"] | None = None
    """Loss weight per row."""
    weight_power: float = 1.0
    """Exponent of the weight."""
    weight_c: float | None = None
    """Constant in the weight's denominator."""
    clip: float | None = None
    """Bound on targets where 0 < α < 1."""
    relaxation: float | None = None
    """Pull targets where r < t towards u by the share (1 - t)^relaxation, the change cut to ±1 (FACM's)."""
    omega: float = 1.0
    """Guidance in training: weight ω of the data's velocity."""
    kappa: float = 0.0
    """Guidance in training: weight κ of the network's own conditional velocity."""
    guide_from: float = 0.0
    """Guidance in training: smallest t."""
    guide_to: float = 1.0
    """Guidance in training: largest t."""
    label_drop: float = 0.0
    """Share of labels replaced by "no class" within the guided interval."""
    scales: tuple[float, ...] = ()
    """With model.guided: 1 and the largest scale, between which each row's is drawn, log-uniformly, instead of
    omega / (1 - kappa)."""
    intervals: bool = False
    """With scales: each row's interval of t is drawn as well, from U(0, ½) to U(½, 1)."""


@dataclass(frozen=True, kw_only=True)
class DistillConfig:
    teacher: str = ""
    """Learn from this model's velocity instead of the samples': the folder of a run (its averaged weights), or of
    an exported or imported model, or its address on the hub; empty: from the samples."""
    guidance: float = 1.0
    """Scale of guidance on the teacher, which the network in training then needs no more; 1: none."""
    guide_from: float = 0.0
    """Smallest t at which the teacher is guided."""
    guide_to: float = 1.0
    """Largest t at which the teacher is guided."""

    def __post_init__(self) -> None:
        interval = (self.guide_from, self.guide_to)
        if not self.teacher and (self.guidance != 1 or interval != (0, 1)):
            raise UserError("distill.guidance is a teacher's: name it by --distill.teacher DIR", status=2)
        if not self.guidance >= 0:
            raise UserError(f"distill.guidance {self.guidance:g} must be at least 0: 1 guides nothing", status=2)
        if not 0 <= self.guide_from < self.guide_to <= 1:
            raise UserError(
                f"distill.guide_from {self.guide_from:g} and guide_to {self.guide_to:g} must rise within 0 … 1",
                status=2,
            )
        if self.guidance == 1 and interval != (0, 1):
            raise UserError(
                "distill.guide_from and guide_to go with distill.guidance: at scale 1 there is nothing to confine",
                status=2,
            )


@dataclass(frozen=True, kw_only=True)
class OptimizerConfig:
    lr: float = 1e-4
    """Learning rate of Adam."""
    beta1: float = 0.9
    """Decay of Adam's first moment."""
    beta2: float = 0.95
    """Decay of Adam's second moment."""
    weight_decay: float = 0.0
    """Decoupled weight decay (AdamW)."""
    warmup: int = 0
    """Steps over which the learning rate rises to its value."""
    decay: str = "constant(1)"
    """Schedule that multiplies the learning rate, e.g. linear(60%, 100%)."""
    clip: float = 16.0
    """Bound on the norm of the whole gradient."""


@dataclass(frozen=True, kw_only=True)
class EMAConfig:
    half_life: float = 6931.0
    """Half-life of the averaged weights in steps."""
    ramp: float = 0.05
    """The half-life is at most this share of the steps done."""
    profiles: tuple[float, ...] = ()
    """Widths, as shares of the run, of power-function averages to store beside it, for instance 0.05 0.1: two are
    enough to make any other width afterwards (`alphaflow ema`)."""
    store_every: int = 0
    """Steps between stored averages; 0: a twentieth of the run. Each is as large as the network's weights."""


@dataclass(frozen=True, kw_only=True)
class ParallelConfig:
    strategy: Literal["none", "ddp", "fsdp", "hsdp"] = "ddp"
    """How the processes that torchrun starts share the work: weights whole on each (ddp), sharded over all (fsdp),
    sharded within a machine and replicated over machines (hsdp). With one process they are the same."""
    timeout: float = 30.0
    """Minutes without progress after which a process counts as hung: it is named, and all end."""
    shard_size: int = 0
    """hsdp: processes over which one copy of the weights is sharded; 0: those of one machine."""


@dataclass(frozen=True, kw_only=True)
class MonitorConfig:
    every: int = 0
    """Steps between scores of the averaged weights on a few samples, written to metrics.jsonl; 0: none."""
    count: int = 1024
    """Samples drawn for a score. Scores of one count compare with each other only."""
    nfe: int = 1
    """Evaluations a sample."""
    detector: str = ""
    """Whose features the Fréchet distance compares: inception, dinov2, clip, clip-l, i3d; empty: that of the
    package which fits the data, or none, and then the score is the energy distance."""
    detector_path: str = ""
    """Its file, or a folder with it; empty: the cache, into which it is fetched once."""
    vae: str = ""
    """latents: where the autoencoder that decodes for the detector is, if not where it was."""
    reference: str = ""
    """Statistics of the real images, made by `alphaflow stats`; empty: of up to 10,000 of the run's own data."""

    def __post_init__(self) -> None:
        if self.detector_path and not self.detector:
            raise UserError(
                "monitor.detector_path goes with monitor.detector: say whose weights it holds", status=2
            )


@dataclass(frozen=True, kw_only=True)
class DiagnosisConfig:
    every: int = 0
    """Steps between diagnoses of the gradients (`alphaflow diagnose`), written to diagnosis/; 0: none."""
    batches: int = 16
    """Batches of each; one costs about ten steps."""


_LEAST = (
    ("monitor.every", 0),
    ("monitor.count", 8),
    ("monitor.nfe", 1),
    ("steps batch_size accumulate log_every checkpoint_every keep_checkpoints sample_every max_bad_steps", 1),
    ("diagnosis.every", 0),
    ("diagnosis.batches", 2),
    ("schedule_steps keep_every spike_factor peak_tflops ema.store_every parallel.shard_size", 0),
)
"""Settings, and the least value that each may have."""


@dataclass(frozen=True, kw_only=True)
class Config:
    recipe: str = "digits"
    """The recipe this run started from."""
    steps: int = 1000
    """Optimizer steps of the whole run."""
    schedule_steps: int = 0
    """What 100 % means in schedules; 0: `steps`. A lengthened run keeps its own."""
    init: str = ""
    """Begin where this run ended: weights, averages and moments from its newest checkpoint; steps count anew."""
    seed: int = 0
    """Of weights, data order, noise and times."""
    batch_size: int = 128
    """Samples a step."""
    accumulate: int = 1
    """Parts into which a batch is cut to save memory; the gradient is their mean."""
    precision: Literal["float32", "bfloat16"] = "float32"
    """Arithmetic of the network (autocast); weights stay float32."""
    tf32: bool = True
    """cuda: float32 matrix products in TF32, with 10 bits of mantissa, several times as fast."""
    compile: bool = False
    """Compile the objective with torch.compile: slow to start, then faster, above all on GPUs."""
    compile_blocks: bool = False
    """Compile each block of the network by itself: starts sooner than `compile`, and goes with sharded weights."""
    recompute: bool = False
    """Keep only the inputs of the network's blocks and compute the rest again in the backward pass: less memory,
    one forward pass more."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where to train; auto: cuda where there is one."""
    log_every: int = 20
    """Steps between lines of metrics.jsonl."""
    checkpoint_every: int = 500
    """Steps between checkpoints; the last step always writes one."""
    keep_checkpoints: int = 2
    """How many of the newest checkpoints stay."""
    keep_every: int = 0
    """Checkpoints at multiples of this many steps stay for good; 0: none does."""
    sample_every: int = 250
    """Steps between sample grids."""
    max_bad_steps: int = 10
    """Consecutive steps with a non-finite loss or gradient, each skipped, after which the run goes back to its
    last checkpoint and on with other data; the second time it stops."""
    spike_factor: float = 10.0
    """A logged residual is told as a leap when it lies this far above what nine in ten lately were; 0: never."""
    spike_rollback: bool = False
    """Let a leap of the residual, too, send the run back to its last checkpoint, once."""
    peak_tflops: float = 0.0
    """What one device is capable of, in 10¹² operations a second, for the share of it in use (`mfu`); 0: what
    plain matrix products reach."""
    wandb: str = ""
    """Project on Weights & Biases to log to as well; empty: none."""
    data: DataConfig = field(default_factory=DataConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    objective: ObjectiveConfig = field(default_factory=ObjectiveConfig)
    distill: DistillConfig = field(default_factory=DistillConfig)
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    ema: EMAConfig = field(default_factory=EMAConfig)
    parallel: ParallelConfig = field(default_factory=ParallelConfig)
    monitor: MonitorConfig = field(default_factory=MonitorConfig)
    diagnosis: DiagnosisConfig = field(default_factory=DiagnosisConfig)

    def __post_init__(self) -> None:
        for names, least in _LEAST:
            for name in names.split():
                value = operator.attrgetter(name)(self)
                if value < least:
                    raise UserError(f"{name} {value:g} must be at least {least}", status=2)
        if self.parallel.timeout <= 0:
            raise UserError(f"parallel.timeout {self.parallel.timeout:g} must be above 0 minutes", status=2)
        if self.compile and (self.compile_blocks or self.recompute):
            raise UserError("compile does not go with compile_blocks or recompute: choose", status=2)
        if self.batch_size % self.accumulate:
            raise UserError(
                f"batch_size {self.batch_size} does not divide into accumulate = {self.accumulate} equal parts",
                status=2,
            )


def to_dict(config: Any) -> dict[str, Any]:
    """Plain nested dictionaries, for YAML."""
    return dataclasses.asdict(config)


def with_changes(config: Config, changes: Mapping[str, Any]) -> Config:
    """Some settings replaced, by their dotted names: {"steps": 2000, "distill.teacher": "runs/fm"}."""
    for name, value in changes.items():
        group, _, key = name.rpartition(".")
        inner = dataclasses.replace(getattr(config, group), **{key: value}) if group else value
        config = dataclasses.replace(config, **{group or key: inner})
    return config


def from_dict(values: dict[str, Any], where: str, kind: type = Config) -> Any:
    """Build a config from what `to_dict` gave. Unknown keys are errors that suggest the nearest."""
    hints = typing.get_type_hints(kind)
    made = {}
    for key, value in values.items():
        choose(f"setting in {where}", key, hints)
        if dataclasses.is_dataclass(hints[key]):
            if not isinstance(value, dict):
                raise UserError(f"{where}: {key} is {value!r}, not a group of settings")
            made[key] = from_dict(value, where, typing.cast(type, hints[key]))
        else:
            made[key] = _convert(value, hints[key], f"{where}: {key}")
    return kind(**made)


def dotted_names(kind: type = Config, prefix: str = "", only: type | None = None) -> list[str]:
    """All settings, or those of one type, by their names on the command line, as in `objective.flow-ratio`."""
    names = []
    for key, hint in typing.get_type_hints(kind).items():
        name = prefix + key.replace("_", "-")
        if dataclasses.is_dataclass(hint):
            names += dotted_names(typing.cast(type, hint), name + ".", only)
        elif only is None or hint is only:
            names.append(name)
    return names


def _convert(value: Any, hint: Any, what: str) -> Any:
    origin = typing.get_origin(hint)
    if origin is Literal:
        if value not in typing.get_args(hint):
            raise UserError(f"{what} is {value!r}: choose one of {', '.join(typing.get_args(hint))}")
        return value
    if origin is tuple:
        if not isinstance(value, list | tuple):
            raise UserError(f"{what} is {value!r}: it must be a list")
        return tuple(_convert(one, typing.get_args(hint)[0], what) for one in value)
    if origin in (types.UnionType, typing.Union):
        if value is None:
            return None
        return _convert(value, next(a for a in typing.get_args(hint) if a is not type(None)), what)
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if not isinstance(value, hint):
        raise UserError(f"{what} is {value!r}: it must be of type {hint.__name__}")
    return value
