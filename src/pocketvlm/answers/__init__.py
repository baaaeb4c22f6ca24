"""From token events to answers: one pipeline for Python, the chat and the server, streamed or whole."""
