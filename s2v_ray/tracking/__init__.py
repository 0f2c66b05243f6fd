"""Experiment trackers: what MLflow and Weights & Biases show of runs, sweeps, evaluations and bundles; model registry.

Address and secrets come from the environment, by the variables that the trackers define (``MLFLOW_TRACKING_URI``,
``MLFLOW_EXPERIMENT_NAME``, ``WANDB_API_KEY``, ``WANDB_PROJECT``, ``WANDB_MODE``).
"""
