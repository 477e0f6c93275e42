"""The demo: a real, if tiny, model behind the real SDKs, asked through the cache; what was paid and
what was not."""

__all__: list[str] = []
