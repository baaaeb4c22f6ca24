"""The parts of compare.py: engines, checks, rows, goals, and what becomes of the figures."""
