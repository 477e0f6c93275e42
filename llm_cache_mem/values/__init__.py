"""A value becomes bytes, and comes back equal and new."""

__all__: list[str] = []
