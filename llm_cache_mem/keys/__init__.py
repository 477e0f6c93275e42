"""A request becomes a key: canonical JSON, and its SHA-256."""

__all__: list[str] = []
