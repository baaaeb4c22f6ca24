"""The parts of serving.py: servers, rows, goals and reports."""
