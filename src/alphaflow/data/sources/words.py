"""Sentences that several sources and commands say."""

from collections.abc import Sequence

from .classes import few, shown

READABLE = (
    "a folder of PNG, JPEG or WebP images, or of one such folder for each class; a .zip, .tar, .tar.gz, "
    ".tar.bz2 or .tar.xz of one; .parquet or .arrow tables, or a folder of them; WebDataset's .tar shards; "
    "TFRecords, or a folder of tfds; a .npy, .npz or .h5 of uint8, or a folder of one .npy for each class; the "
    "files of MNIST and its like (IDX), CIFAR, SVHN, STL-10, ImageNet, Tiny ImageNet, CelebA, CUB, or the Oxford "
    "pets or flowers; an LMDB of encoded images, as LSUN's; a data set that `datasets` has saved; or hf://OWNER/NAME"
)
"""Everything that images can be read from, in words."""


def found_words(
    address: str,
    count: int,
    class_names: Sequence[str],
    *,
    unit: str = "images",
    origin: str = "",
    skipped: int = 0,
    passed_over: Sequence[str] = (),
) -> str:
    """Return in one line what a source holds: `photos.zip: 2,500 images, 10 classes (0, 1, 2, …), labels from
    dataset.json, 3 skipped`.

    Args:
        address: the source's address.
        count: the number of samples, skipped ones left out.
        class_names: the names of the classes.
        unit: what a sample is called, in the plural.
        origin: where the labels come from, in words.
        skipped: how many samples could not be read.
        passed_over: what was seen and not used.
    """
    kind = "class" if len(class_names) == 1 else "classes"
    classes = f"{len(class_names):,} {kind} ({few(class_names)})" if class_names else "no classes"
    parts = [f"{count:,} {unit}", classes, origin, f"{skipped:,} skipped" if skipped else ""]
    line = f"{shown(address)}: {', '.join(filter(None, parts))}"
    if passed_over:
        line += f"; passed over: {', '.join(passed_over)}"
    return " ".join(line.split())
