"""A load generator for any OpenAI-compatible address, with figures under the names that vLLM uses."""
