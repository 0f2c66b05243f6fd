"""Evaluation: measures bundles on held-out speech, writes reports, and conducts the user study."""
