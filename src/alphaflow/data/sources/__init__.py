"""Images by one address, wherever they lie."""

from .base import Source
from .captions import captions_of
from .decoding import Crop, decode, decode_or_reason
from .opening import open_source

__all__ = ["Crop", "Source", "captions_of", "decode", "decode_or_reason", "open_source"]
