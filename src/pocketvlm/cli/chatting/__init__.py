"""This package connects a chat session to a terminal or a pipe."""
