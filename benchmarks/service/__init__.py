"""The parts of serving.py: servers, rows, goals, and what becomes of the figures."""
