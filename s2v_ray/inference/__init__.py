"""Inference: speech in, frames out, without Ray."""
