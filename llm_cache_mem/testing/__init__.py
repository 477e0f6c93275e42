"""Record and replay answers in tests, and a local model server."""

__all__: list[str] = []
