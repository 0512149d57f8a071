"""Where results go, and what they say of the machine."""

from pathlib import Path

from alphaflow.costs.bench import machine

RESULTS = Path(__file__).parent / "results"

__all__ = ["RESULTS", "machine"]
