"""Hyperparameter sweeps: the space, searchers, schedulers, and the trials on Ray Tune."""

from s2v_ray.tuning import search as search  # adds the built-in searchers to the table that a space refers to
