"""Counters, prices, and the statistics made of them."""

__all__: list[str] = []
