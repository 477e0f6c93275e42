"""A local model server with the OpenAI and Anthropic APIs, for the demo, the notebooks and ``bench
live``."""

__all__: list[str] = []
