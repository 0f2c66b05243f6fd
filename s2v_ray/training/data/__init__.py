"""Training data: which clips each step takes, how windows are decoded, and the stream of batches."""
