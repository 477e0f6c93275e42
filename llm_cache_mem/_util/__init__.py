"""Small tools that know nothing of caching."""

__all__: list[str] = []
