"""The HTTP server: OpenAI's, Anthropic's and Ollama's interfaces over one engine. `serve()` runs it."""
