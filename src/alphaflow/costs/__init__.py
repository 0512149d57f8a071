"""The time and memory that a run takes: measured, and estimated before it."""
