"""Training: one trainer for every network, its tasks, engines, data and checkpoints."""
