"""Images, or latents that others made, become a set of latents on disk."""

from .convert import convert
from .encode import encode
from .foreign import open_foreign
from .plan import EncodingPlan, EncodingSettings
from .preview import preview

__all__ = ["EncodingPlan", "EncodingSettings", "convert", "encode", "open_foreign", "preview"]
