"""The chat at a terminal or in a pipe: lines in, answers out."""
