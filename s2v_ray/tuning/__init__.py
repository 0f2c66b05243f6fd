"""Hyperparameter sweeps: the space, searchers, schedulers, and the trials on Ray Tune."""
