"""Images by one address, wherever they lie."""

from .base import Source
from .decoding import Crop, decode, decode_or_reason
from .opening import open_source

__all__ = ["Crop", "Source", "decode", "decode_or_reason", "open_source"]
