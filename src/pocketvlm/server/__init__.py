"""The HTTP server offers the interfaces of OpenAI, Anthropic and Ollama over one engine."""
