"""Beside other libraries: the same work for each, in one interleaved run a table, and what came out
written down by the same command."""

__all__: list[str] = []
