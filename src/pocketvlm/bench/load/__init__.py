"""The load generator sends requests to any OpenAI-compatible server and reports figures under vLLM's names."""
