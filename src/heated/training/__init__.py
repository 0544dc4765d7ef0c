"""The training loop, its schedules, optimizers and checkpoints."""
