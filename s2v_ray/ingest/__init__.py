"""Video files -> corpus."""
