"""Serving: an HTTP API for bundles with videos, live sessions, a page and a user study. Only ``app`` uses Ray."""
