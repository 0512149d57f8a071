"""Training: configuration, the step, checkpoints and logs."""
