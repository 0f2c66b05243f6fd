"""Serving: an HTTP API for bundles with live video, jobs, a page and a user study. Only ``app`` uses Ray."""
