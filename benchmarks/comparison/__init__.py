"""The parts of compare.py: engines, checks, rows, goals and reports."""
