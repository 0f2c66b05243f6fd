"""Talking-face video from speech alone (Speech2Video, Si et al. 2021), trained and served on Ray."""
