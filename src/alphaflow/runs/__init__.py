"""A run: its settings, the objects that they stand for, and what lies on disk."""
