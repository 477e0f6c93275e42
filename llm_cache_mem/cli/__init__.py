"""The command line: look into a store, check it, tidy it up, carry it elsewhere; say why a request
misses; simulate what caches save."""

__all__: list[str] = []
