"""The provider's prompt cache: warm it, keep it warm, estimate costs, and monitor it."""

from llm_cache_mem.prompt_cache.advise import Advice, Option, advise
from llm_cache_mem.prompt_cache.keep_warm import KeepWarm
from llm_cache_mem.prompt_cache.prefix import Prefix
from llm_cache_mem.prompt_cache.rules import Rules, rules_for
from llm_cache_mem.prompt_cache.tracker import Alert, PrefixStats, PromptCacheTracker, TrackerStats
from llm_cache_mem.prompt_cache.warmed import Warmed
from llm_cache_mem.prompt_cache.warmer import Warmer

__all__ = [
    "Advice",
    "Alert",
    "KeepWarm",
    "Option",
    "Prefix",
    "PrefixStats",
    "PromptCacheTracker",
    "Rules",
    "TrackerStats",
    "Warmed",
    "Warmer",
    "advise",
    "rules_for",
]
