"""Batches of requests over HTTP: stored in the data directory, run one after the other when nobody else asks."""
