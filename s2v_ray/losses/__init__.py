"""Losses as functions of tensors, each with its formula and source."""
