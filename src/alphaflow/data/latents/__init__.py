"""Sets of latents on disk: shards of means and log-variances, and a manifest that says what they are."""

from .dataset import Latents
from .manifest import Fingerprint, Manifest, differences, read_manifest

__all__ = ["Fingerprint", "Latents", "Manifest", "differences", "read_manifest"]
