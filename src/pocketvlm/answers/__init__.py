"""One pipeline turns token events into answers for Python, the chat and the server, streamed or whole."""
