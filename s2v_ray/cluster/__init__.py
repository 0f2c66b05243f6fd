"""Clusters: checked manifests, an agent for spot nodes, job submission, preflight checks, and planning of runs."""
