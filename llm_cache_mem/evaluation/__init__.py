"""Many requests at once: mapped over a function, or in a provider's batches, and resumed where they
stopped."""

from llm_cache_mem.evaluation.results import MapResult

__all__ = ["MapResult"]
