"""The benchmark: what an exact cache in the client, the provider's prompt cache, and both save on a trace of real calls."""

__all__: list[str] = []
