"""A store of recordings in a JSONL file."""

from llm_cache_mem.stores.jsonl.store import JsonlStore

__all__ = ["JsonlStore"]
