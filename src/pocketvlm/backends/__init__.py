"""Backends: one folder each, implementing the operations of `ops.py`."""
