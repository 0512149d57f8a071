"""Checkpoints of other code, read without running any of it, and given this package's names."""
