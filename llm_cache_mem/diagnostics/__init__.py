"""Explain misses: compare a request with stored ones, and redact what is stored."""

__all__: list[str] = []
