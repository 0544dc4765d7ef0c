"""The training loop, its recipes, schedules, optimizers and checkpoints."""
