"""The benchmark: what an exact cache in the client, the provider's prompt cache, and both save on a
trace of real calls."""

from llm_cache_mem.bench.recorder import TraceRecorder

__all__ = ["TraceRecorder"]
