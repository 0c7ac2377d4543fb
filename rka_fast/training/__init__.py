"""Training: configuration, loop, metrics, checkpoints and run folders."""
