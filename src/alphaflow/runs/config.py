"""The settings of a run: frozen dataclasses, one field a setting, each with its meaning below it.

A recipe is a value of `Config`; the command line changes single fields by their dotted names; a run's
`config.yaml` holds all of them, resolved. This module loads neither torch nor anything else heavy.
"""

import dataclasses
import typing
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

from .combinations import check_together
from .conditions import (
    ALPHAS,
    AT_ADDRESS,
    AVERAGED,
    BLENDED,
    CAPTIONED,
    CLIPPED,
    DETECTORS,
    DIAGNOSED,
    DIFFERENTIATED,
    DROPPED,
    GUIDED,
    INTERVALS,
    LABELLED,
    MONITORED,
    NOT_DYADIC,
    PICTURES,
    POWERED,
    SHIFTED,
    STAGED,
    STEPPED,
    STORED,
    TIMED,
    TOYS,
    TRANSFORMER,
    WAYS,
    WEIGHTED,
    WIDEST,
    of_data,
    of_model,
)
from .constraints import Anything, Law, Name, OneOf, Range, Schedule, check_values
from .yaml_settings import read, without_earlier

STEPS = 10**12
"""More than any run has."""
RECORDED = ("recipe", "schedule_steps", "adapted", "base")
"""Fields that no option sets: the command's first word, and what a run notes for when it is lengthened."""


@dataclass(frozen=True, kw_only=True)
class DataConfig:
    name: Literal[
        "digits", "fashion", "shapes", "toy", "folder", "latents", "moving-digits", "clips", "clip-latents"
    ] = "digits"
    """Which data: scikit-learn's digits, Fashion-MNIST, drawn shapes with captions, a 2-D toy, images at an
    address (folder), latents made of them, videos of digits that move, video files, or latents of their frames."""
    path: Annotated[str, Anything(), AT_ADDRESS] = ""
    """folder: the address: a directory with one sub-directory for each class, or another form that docs/data.md
    lists. clips: such a directory of videos, or a list, .txt or .csv. latents: the DST of `alphaflow encode`.
    fashion: the folder of its files, if neither Debian's nor the cache."""
    labels: Annotated[str, Anything(), of_data("folder")] = ""
    """folder: where labels come from, if not from the data's own: FILE.csv or FILE.csv#COLUMN, a column, a value
    of the .json beside each image, folders, or none."""
    captions: Annotated[str, Anything(), of_data("folder")] = ""
    """folder: what the pictures show, for a network that reads it: auto, the captions that the set has; or
    FILE.csv or FILE.csv#COLUMN."""
    size: Annotated[int, Range(1, 16384), of_data("folder", "moving-digits", "clips")] = 64
    """folder: images are resized and cropped to size × size pixels. moving-digits, clips: of a frame."""
    frames: Annotated[int, Range(1, 4096), of_data("moving-digits", "clips", "clip-latents")] = 8
    """moving-digits, clips, clip-latents: frames of a video."""
    rate: Annotated[float, Range(above=0, high=1000), of_data("clips")] = 8.0
    """clips: frames a second that are taken of a file."""
    crop: Annotated[Literal["lanczos", "box"], of_data("folder")] = "lanczos"
    """folder: the central square by Lanczos (α-Flow's), or halved by box and then bicubic (ADM's, DiT's,
    SiT's)."""
    grey: Annotated[bool, of_data("folder")] = False
    """folder: pictures have one channel, their luminance."""
    flip: Annotated[bool, PICTURES] = False
    """Mirror images left-right with probability 1/2; latents: take that of the mirrored image."""
    tolerance: Annotated[float, Range(0, 1), of_data("folder", "clips")] = 0.1
    """folder, clips: share of unreadable files above which training does not start."""
    toy: Annotated[str, OneOf(TOYS), of_data("toy")] = "checkerboard"
    """toy: checkerboard, moons, gaussians or spirals."""
    classes: Annotated[str, Anything(), LABELLED] = ""
    """Train on these classes only, by number or name: 0,3,7-9 or cat,dog."""
    balanced: Annotated[bool, LABELLED] = False
    """Draw every class equally often, instead of every sample once an epoch."""


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    name: Literal["dit", "video-dit", "mlp", "unet", "adapted"] = "dit"
    """The network: a diffusion transformer for images or for videos, an MLP for points, a U-Net for pixels; or
    adapted, what init names, as `alphaflow adapt` made it."""
    adapted: Annotated[str, Anything()] = ""
    """adapted: what the network is, in JSON, as a run notes it when it begins."""
    base: Annotated[str, Anything()] = ""
    """adapted, with LoRA: the folder of the weights that do not train, as a run notes it."""
    width: Annotated[int, Range(1, 65536)] = 96
    """Channels: tokens of the DiT, hidden units of the MLP, the first level of the U-Net."""
    depth: Annotated[int, Range(1, 1024)] = 4
    """Blocks (DiT, MLP) or levels (U-Net)."""
    heads: Annotated[int, Range(1, 1024), TRANSFORMER] = 4
    """dit: attention heads."""
    patch: Annotated[int, Range(1, 1024), TRANSFORMER] = 2
    """dit: pixels along the side of a patch."""
    activation: Annotated[Literal["gelu-tanh", "gelu", "silu"], TRANSFORMER] = "gelu-tanh"
    """dit: of the blocks' MLPs. gelu-tanh is DiT's; silu is the quickest on a CPU."""
    attention: Annotated[Literal["joint", "factorised"], of_model("video-dit")] = "joint"
    """video-dit: each token sees all of the video, or by turns its frame and its place in all frames."""
    predicts: Literal["velocity", "data"] = "velocity"
    """What the network's output means: the average velocity u, or the data f with u = (z - f) / t."""
    text_width: Annotated[int, Range(32, 65536), CAPTIONED] = 64
    """With captions: features of a word in the encoder, a multiple of 32."""
    text_depth: Annotated[int, Range(0, 1024), CAPTIONED] = 2
    """With captions: blocks of the encoder."""
    position_step: Annotated[float, Range(above=0, high=65536), CAPTIONED] = 1.0
    """With captions: how far apart the positions of neighbouring patches are, 1 in a DiT; few patches are hardly
    told apart so."""
    guided: Annotated[bool, LABELLED] = False
    """The network takes the scale and the interval of guidance as inputs: one serves all of objective.scales."""


@dataclass(frozen=True, kw_only=True)
class ObjectiveConfig:
    """Unset fields (None) keep what the named member of the family prescribes."""

    name: Annotated[str, OneOf(tuple(ALPHAS))] = "alphaflow"
    """The member: alphaflow, meanflow, imeanflow, tfm, fm, shortcut, consistency, discrete-consistency,
    splitmeanflow, facm, lagrangian, tvm, soflow, rcgm. One other than the recipe's comes as it was published,
    without what the recipe tuned for its own; guidance stays."""
    alpha: Annotated[str | None, Schedule(0, 1, steering=True), INTERVALS] = None
    """Schedule of α: a number, or e.g. sigmoid(0%, 100%), linear(0, 500), step(50%); self: α falls when what the
    network sees of its trajectories' curvature has settled (docs/claims.md)."""
    delta: Annotated[str | None, Schedule(1e-6, 1), STEPPED] = None
    """Length of the step t - s: a number or a schedule, e.g. exponential(0%, 80%, 4, first=0.1, last=0.002)."""
    flow_ratio: Annotated[str | None, Schedule(0, 1)] = None
    """Share of rows with r = t: a number or a schedule, e.g. linear(0%, 100%, first=0.75, last=0.25)."""
    shift: Annotated[Literal["data", "model", "velocity", "end"] | None, SHIFTED] = None
    """The velocity that leads from z_t to z_s; end: the network's own, and s lies near r instead of t."""
    derivative: Annotated[str, OneOf(WAYS), DIFFERENTIATED] = "auto"
    """How du/dt is taken: auto, fused, forward, reverse, difference."""
    blend: Annotated[float, Range(0, 1), BLENDED] = 1.0
    """With shift velocity: how much of the velocity to z_s, or of du/dt's direction, is the network's own; the
    rest is the data's or the teacher's."""
    trust: Annotated[str | None, Schedule(0, 1), SHIFTED] = None
    """Where r < t, the target v + trust (target - v): a number or a schedule, for instance the warm-up of
    consistency distillation, linear(0, 1000, first=0, last=1)."""
    coupling: Annotated[Literal["sorted", "minimum", "scaled", "truncated", "gap", "dyadic"] | None, INTERVALS] = (
        None
    )
    """How r goes with t; gap: t - r is drawn by t_law, r where it leaves room."""
    to_data: Annotated[float, Range(0, 1), INTERVALS] = 0.0
    """Share of rows with r < t whose r is set to 0."""
    time_shift: Annotated[float, Range(above=0, high=1000)] = 1.0
    """n of t → n t / (1 + (n - 1) t), of t and r alike: above 1 towards the noise, for latents of many
    dimensions."""
    t_law: Annotated[str | None, Law()] = None
    """Distribution of t, or of t - r under the coupling `gap`: logit-normal(-0.4, 1), uniform, constant(1),
    beta(2, 1), arctan(0, 1)."""
    r_law: Annotated[str | None, Law(), INTERVALS, NOT_DYADIC] = None
    """Distribution of r, or of r / t under the coupling `scaled`."""
    flow_law: Annotated[str | None, Law()] = None
    """Distribution of t on rows with r = t; unset: the member's, which is that of t (of r under `gap`), or for
    meanflow and imeanflow max(LAW) of it, the larger of two draws."""
    weight: Literal["adaptive", "scaled", "power", "normalised", "definition", "uniform"] | None = None
    """Loss weight per row."""
    weight_power: Annotated[float, Range(0, 100), POWERED] = 1.0
    """Exponent of the weight."""
    weight_c: Annotated[float | None, Range(above=0), WEIGHTED] = None
    """Constant in the weight's denominator."""
    weight_by_time: Annotated[Literal["tim", "rcgm"] | None, TIMED] = None
    """Factor of the row's times in the weight, less for long intervals: TiM's or RCGM's."""
    clip: Annotated[float | None, Range(above=0), CLIPPED] = None
    """Bound on the targets of rows with r < t while α > 0."""
    relaxation: Annotated[float | None, Range(0), INTERVALS] = None
    """Pull targets where r < t towards u by the share (1 - t)^relaxation, the change cut to ±1 (FACM's)."""
    omega: Annotated[float, Range(0), LABELLED] = 1.0
    """Guidance in training: weight ω of the data's velocity."""
    kappa: Annotated[float, Range(below=1, note="the scale is omega / (1 - kappa)"), LABELLED] = 0.0
    """Guidance in training: weight κ of the network's own conditional velocity."""
    guide_from: Annotated[float, Range(0, 1), GUIDED] = 0.0
    """Guidance in training: smallest t."""
    guide_to: Annotated[float, Range(0, 1), GUIDED] = 1.0
    """Guidance in training: largest t."""
    label_drop: Annotated[float, Range(0, 1), LABELLED] = 0.0
    """Share of labels replaced by "no class"."""
    drop_where: Annotated[Literal["interval", "everywhere", "flow"], DROPPED] = "interval"
    """Where labels drop: within the guided interval (α-Flow's release), at every t, or on rows with r = t only
    (the share is still that of all rows)."""
    guide_dropped: Annotated[bool, DROPPED] = False
    """Guide rows with dropped labels as well, by the null class alone (α-Flow's release); else they keep v."""
    scales: Annotated[tuple[float, ...], Range(above=0, high=1e6), LABELLED] = ()
    """With model.guided: 1 and the largest scale, between which each row's is drawn, log-uniformly, instead of
    omega / (1 - kappa)."""
    intervals: bool = False
    """With scales: each row's interval of t is drawn as well, from U(0, ½) to U(½, 1)."""

    def of_member(self, name: str) -> "ObjectiveConfig":
        """Return these settings for another member: how a recipe trains its own is as published again.

        What is learned stays, that is guidance (but for what it does with dropped labels), and so does the way to
        du/dt. With the recipe's own name nothing changes.
        """
        if name == self.name:
            return self
        kept = "derivative omega kappa guide_from guide_to label_drop scales intervals".split()
        return ObjectiveConfig(name=name, **{key: getattr(self, key) for key in kept})

    def of_trajectories(self) -> "ObjectiveConfig":
        """Return these settings for the stage of trajectories: α = 1 where r < t, all rows counted alike."""
        return ObjectiveConfig(name="tfm", flow_ratio="0", weight="uniform", time_shift=self.time_shift)


@dataclass(frozen=True, kw_only=True)
class DistillConfig:
    teacher: Annotated[str, Anything(or_none=True)] = ""
    """Learn from this model's velocity instead of the samples': the folder of a run (its averaged weights), or of
    an exported or imported model, or its address on the hub; empty: from the samples."""
    guidance: Annotated[float, Range(0, note="1 guides nothing")] = 1.0
    """Scale of guidance on the teacher, which the network in training then needs no more; 1: none."""
    guide_from: Annotated[float, Range(0, 1)] = 0.0
    """Smallest t at which the teacher is guided."""
    guide_to: Annotated[float, Range(0, 1)] = 1.0
    """Largest t at which the teacher is guided."""


@dataclass(frozen=True, kw_only=True)
class TrajectoryConfig:
    steps: Annotated[int, Range(1, 1000), STAGED] = 16
    """Steps of each of the teacher's paths from noise to data."""
    solver: Annotated[Literal["euler", "heun"], STAGED] = "euler"
    """How the teacher takes them; heun evaluates it twice a step."""
    pairs: Annotated[int, Range(1, 4096), STAGED] = 8
    """Pairs of points that are learned of each path: batch_size counts paths, each with so many rows."""


@dataclass(frozen=True, kw_only=True)
class OptimizerConfig:
    lr: Annotated[float, Range(above=0)] = 1e-4
    """Learning rate of Adam."""
    beta1: Annotated[float, Range(0, below=1)] = 0.9
    """Decay of Adam's first moment."""
    beta2: Annotated[float, Range(0, below=1)] = 0.95
    """Decay of Adam's second moment."""
    weight_decay: Annotated[float, Range(0)] = 0.0
    """Decoupled weight decay (AdamW)."""
    warmup: Annotated[int, Range(0, STEPS)] = 0
    """Steps over which the learning rate rises to its value."""
    decay: Annotated[str, Schedule(0)] = "constant(1)"
    """Schedule that multiplies the learning rate, e.g. linear(60%, 100%)."""
    clip: Annotated[float, Range(0, note="0 bounds nothing")] = 16.0
    """Bound on the norm of the whole gradient."""


@dataclass(frozen=True, kw_only=True)
class EMAConfig:
    half_life: Annotated[float, Range(0, note="0 keeps no average")] = 6931.0
    """Half-life of the averaged weights in steps."""
    ramp: Annotated[float, Range(above=0), AVERAGED] = 0.05
    """The half-life is at most this share of the steps done."""
    profiles: Annotated[tuple[float, ...], Range(above=0, high=WIDEST)] = ()
    """Widths, as shares of the run, of power-function averages to store beside it, for instance 0.05 0.1: two are
    enough to make any other width afterwards (`alphaflow ema`)."""
    store_every: Annotated[int, Range(0, STEPS), STORED] = 0
    """Steps between stored averages; 0: a twentieth of the run. Each is as large as the network's weights."""


@dataclass(frozen=True, kw_only=True)
class ParallelConfig:
    strategy: Literal["none", "ddp", "fsdp", "hsdp"] = "ddp"
    """How the processes that torchrun starts share the work: weights whole on each (ddp), sharded over all (fsdp),
    sharded within a machine and replicated over machines (hsdp). With one process they are the same."""
    timeout: Annotated[float, Range(above=0, high=1e6, unit="minutes")] = 30.0
    """Minutes without progress after which a process counts as hung: it is named, and all end."""


@dataclass(frozen=True, kw_only=True)
class MonitorConfig:
    every: Annotated[int, Range(0, STEPS)] = 0
    """Steps between scores of the averaged weights on a few samples, written to metrics.jsonl; 0: none."""
    count: Annotated[int, Range(8, 2**20), MONITORED] = 1024
    """Samples drawn for a score. Scores of one count compare with each other only."""
    nfe: Annotated[int, Range(1, 10_000), MONITORED] = 1
    """Evaluations a sample."""
    detector: Annotated[str, OneOf(DETECTORS, or_none=True), MONITORED] = ""
    """Whose features the Fréchet distance compares: inception, dinov2, clip, clip-l, i3d; empty: that of the
    package which fits the data, or none, and then the score is the energy distance."""
    vae: Annotated[str, Anything(), MONITORED, of_data("latents", "clip-latents")] = ""
    """latents: where the autoencoder that decodes for the detector is, if not where it was."""
    reference: Annotated[str, Anything(or_none=True), MONITORED] = ""
    """Statistics of the real images, made by `alphaflow stats`; empty: of up to 10,000 of the run's own data."""


@dataclass(frozen=True, kw_only=True)
class DiagnosisConfig:
    every: Annotated[int, Range(0, STEPS)] = 0
    """Steps between diagnoses of the gradients (`alphaflow diagnose`), written to diagnosis/; 0: none."""
    batches: Annotated[int, Range(2, 10**6), DIAGNOSED] = 16
    """Batches of each; one costs about ten steps."""


@dataclass(frozen=True, kw_only=True)
class Config:
    recipe: Annotated[str, Anything()] = "digits"
    """The recipe this run started from."""
    steps: Annotated[int, Range(1, STEPS)] = 1000
    """Optimizer steps of the whole run."""
    schedule_steps: Annotated[int, Range(0, STEPS)] = 0
    """What 100 % means in schedules; 0: `steps`, which a run notes here as it begins and keeps when lengthened."""
    stage: Literal["objective", "trajectories"] = "objective"
    """What is learned: the objective, or a teacher's whole paths (distill.teacher), a start without derivatives
    and without samples, from which runs with an objective go on by `--init`."""
    init: Annotated[str, Anything()] = ""
    """Begin where this run ended: weights, averages and moments from its newest checkpoint; steps count anew."""
    seed: Annotated[int, Range(-(2**63), 2**63 - 1)] = 0
    """Of weights, data order, noise and times."""
    batch_size: Annotated[int, Range(1, 2**24)] = 128
    """Samples a step."""
    accumulate: Annotated[int, Range(1, 2**24)] = 1
    """Parts into which a batch is cut to save memory; the gradient is their mean."""
    precision: Literal["float32", "bfloat16"] = "float32"
    """Arithmetic of the network (autocast); weights stay float32, and on GPUs their products are TF32."""
    compile: bool = False
    """Compile the objective with torch.compile: slow to start, then faster, above all on GPUs."""
    compile_blocks: bool = False
    """Compile each block of the network by itself: starts sooner than `compile`, and goes with sharded weights."""
    recompute: bool = False
    """Keep only the inputs of the network's blocks and compute the rest again in the backward pass: less memory,
    one forward pass more."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where to train; auto: cuda where there is one."""
    log_every: Annotated[int, Range(1, STEPS)] = 20
    """Steps between lines of metrics.jsonl."""
    checkpoint_every: Annotated[int, Range(1, STEPS)] = 500
    """Steps between checkpoints; the last step always writes one."""
    keep_checkpoints: Annotated[int, Range(1, STEPS)] = 2
    """How many of the newest checkpoints stay."""
    sample_every: Annotated[int, Range(1, STEPS)] = 250
    """Steps between sample grids."""
    max_bad_steps: Annotated[int, Range(1, STEPS)] = 10
    """Consecutive steps with a non-finite loss or gradient, each skipped, after which the run goes back to its
    last checkpoint and on with other data; the second time it stops."""
    spike_factor: Annotated[float, Range(0)] = 10.0
    """A logged residual is told as a leap when it lies this far above what nine in ten lately were; 0: never."""
    peak_tflops: Annotated[float, Range(0, 1e6)] = 0.0
    """What one device is capable of, in 10¹² operations a second, for the share of it in use (`mfu`); 0: what
    plain matrix products reach."""
    wandb: Annotated[str, Name("/\\#?%:", 128, or_none=True)] = ""
    """Project on Weights & Biases to log to as well; empty: none."""
    data: DataConfig = field(default_factory=DataConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    objective: ObjectiveConfig = field(default_factory=ObjectiveConfig)
    distill: DistillConfig = field(default_factory=DistillConfig)
    trajectories: TrajectoryConfig = field(default_factory=TrajectoryConfig)
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    ema: EMAConfig = field(default_factory=EMAConfig)
    parallel: ParallelConfig = field(default_factory=ParallelConfig)
    monitor: MonitorConfig = field(default_factory=MonitorConfig)
    diagnosis: DiagnosisConfig = field(default_factory=DiagnosisConfig)

    def __post_init__(self) -> None:
        check_values(self)
        check_together(self)


def to_dict(config: Any) -> dict[str, Any]:
    """Plain nested dictionaries, for YAML."""
    return dataclasses.asdict(config)


def with_changes(config: Config, changes: Mapping[str, Any]) -> Config:
    """Replace some settings, by their dotted names: {"steps": 2000, "distill.teacher": "runs/fm"}."""
    for name, value in changes.items():
        group, _, key = name.rpartition(".")
        inner = dataclasses.replace(getattr(config, group), **{key: value}) if group else value
        config = dataclasses.replace(config, **{group or key: inner})
    return config


def from_dict(values: dict[str, Any], where: str, kind: type = Config) -> Any:
    """Build a config from what `to_dict` gave, here or in an earlier version; `where` names the file it was in.

    Raises:
        UserError: an unknown setting (the nearest is suggested), a value of another type, or one out of its range.
    """
    return read(without_earlier(values, where), where, kind)


def dotted_names(kind: type = Config, prefix: str = "", only: type | None = None) -> list[str]:
    """All settings, or those of one type, by their names on the command line, as in `objective.flow-ratio`."""
    names = []
    for key, hint in typing.get_type_hints(kind).items():
        if key in RECORDED:
            continue
        name = prefix + key.replace("_", "-")
        if dataclasses.is_dataclass(hint):
            names += dotted_names(typing.cast(type, hint), name + ".", only)
        elif only is None or hint is only:
            names.append(name)
    return names
