"""Batch jobs answer many requests of a file, lose nothing that is finished, and write one output."""
