"""The path of a call: read, lead or wait, store."""

__all__: list[str] = []
