"""Telemetry: the events of a cache as metrics and spans of the tools that teams already watch."""

__all__: list[str] = []
