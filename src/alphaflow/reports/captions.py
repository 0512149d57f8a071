"""What a report calls its figures and curves, and says of them."""

METRICS = {
    "frechet": "Fréchet distance ↓",
    "accuracy": "Class accuracy ↑",
    "words": "Words obeyed ↑",
    "colour": "Colour ↑",
    "shape": "Shape ↑",
    "size": "Size ↑",
    "place": "Place ↑",
    "unseen_words": "Words of unseen pairs ↑",
    "unseen_pairs": "Unseen pairs ↑",
    "precision": "Precision ↑",
    "recall": "Recall ↑",
    "neighbour": "Nearest neighbour ≈",
    "copies": "Copies ≈",
    "energy": "Energy distance ↓",
    "sliced_wasserstein": "Sliced Wasserstein ↓",
}
"""Names for people, and which way is better: ↓ low, ↑ high, ≈ as in the real data."""

CURVES = (
    (
        "residual",
        "residual",
        "‖u − target‖², un-weighted. For 0 < α < 1 the target lies near the network's own output and the residual "
        "shrinks with α, to jump back where α reaches 0: compare steps of the same α.",
    ),
    (
        "parts of the residual",
        "tfm tc",
        "TFM ‖u − v‖² and TC 2(v − target)·u, whose gradients make the residual's.",
    ),
    ("residual by t", " ".join(f"residual_t{k}" for k in range(5)), "By time: t = 0 is data, t = 1 is noise."),
    (
        "residual by t − r",
        " ".join(f"residual_d{k}" for k in range(5)),
        "By the length of the jump; a one-step sample takes the longest, t − r = 1.",
    ),
    (
        "residual by class",
        "residual_class_worst residual_class_median",
        "Running means: the class that is highest at the time, and the median of all classes.",
    ),
    (
        "score of the average",
        "monitor_frechet_best monitor_energy_best monitor_frechet monitor_energy",
        "Distance between a few samples of the averaged weights and the data, always from the same noise. Few "
        "samples make it too high: compare it within this run only.",
    ),
    ("α, flow ratio", "alpha flow_ratio", "The curriculum: α = 1 is flow matching, α = 0 is MeanFlow."),
    (
        "curvature",
        "steering_curvature",
        "How u changes within a jump, as a share of the residual at α = 1: α falls once this has settled.",
    ),
    ("learning rate", "lr", "Learning rate, with warm-up and decay."),
    ("gradient norm", "grad_norm", "Norm of the whole gradient before it is clipped."),
    ("weighted loss", "loss", "The loss that the gradient is taken of; no measure of progress."),
)
"""Label of the axis, keys in metrics.jsonl, caption."""

_FIFTHS = ("0–0.2", "0.2–0.4", "0.4–0.6", "0.6–0.8", "0.8–1")
NAMES = {
    "tfm": "TFM",
    "tc": "TC",
    "alpha": "α",
    "flow_ratio": "share of rows with r = t",
    "residual_class_worst": "highest class",
    "residual_class_median": "median class",
    "steering_curvature": "change of u",
    "monitor_frechet": "Fréchet distance",
    "monitor_frechet_best": "lowest so far",
    "monitor_energy": "energy distance",
    "monitor_energy_best": "lowest so far",
    **{f"residual_t{k}": f"t in {fifth}" for k, fifth in enumerate(_FIFTHS)},
    **{f"residual_d{k}": f"t − r in {fifth}" for k, fifth in enumerate(_FIFTHS)},
}
"""Keys of metrics.jsonl as a legend shows them."""

MEANINGS = {
    "frechet": "between samples and data in the detector's features, as two Gaussians (like FID); 0: equal",
    "accuracy": "share of samples in which the detector sees the class asked for",
    "precision": "share of samples that lie among the real data: quality",
    "recall": "share of the real data that lies among the samples: variety",
    "neighbour": "median distance from a sample to the nearest real one",
    "copies": "share of samples nearer to a real one than 99 % of those are to each other; 1: memorised",
    "energy": "between the two distributions, from the distances of all pairs; 0: equal",
    "sliced_wasserstein": "how far samples must move to become the data, averaged over directions; 0: equal",
}
