"""The command line: look into a store, tidy it up, carry it elsewhere, compute a key."""

__all__: list[str] = []
