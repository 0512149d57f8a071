"""Samples against data: prepared, collected, scored, recorded and compared."""
