"""Preprocessing of audio, video and faces: the same code for ingest, training and serving."""
