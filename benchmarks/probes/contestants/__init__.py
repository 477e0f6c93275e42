"""The contestants, each imported only when it is asked: one class of Peer for each way to configure a cache."""

from importlib import import_module

from benchmarks.probes.contestant import Contestant

__all__ = ["CONTESTANTS", "NOT_TRIED", "OURS", "load"]

# In the order of the table's columns. The key is what --only takes.
CONTESTANTS = {
    "llm-cache-mem": "ours:Memory",
    "llm-cache-mem, SQLite": "ours:SQLite",
    "llm-cache-mem, Redis": "ours:Redis",
    "llm-cache-mem, LangChain": "langchain:Ours",
    "LangChain InMemoryCache": "langchain:InMemory",
    "LangChain SQLiteCache": "langchain:SQLite",
    "LangChain RedisCache": "langchain:Redis",
    "LiteLLM local": "litellm:Local",
    "LiteLLM disk": "litellm:Disk",
    "LiteLLM redis": "litellm:Redis",
    "DSPy": "dspy:DSPy",
    "GPTCache": "gptcache:GPTCache",
    "Agno": "agno:Agno",
    "AutoGen": "autogen:AutoGen",
    "demystify": "demystify:Demystify",
    "diskcache": "functions:DiskCache",
    "cachetools": "functions:CacheTools",
    "cashews": "functions:Cashews",
    "aiocache": "functions:AioCache",
}
OURS = tuple(name for name in CONTESTANTS if name.startswith("llm-cache-mem"))

NOT_TRIED = {
    "instructor": "its newest version needs other versions of openai and jiter than the rest here",
    "inspect_ai": "does not install beside the rest here",
    "lm-eval": "caches an evaluation harness, not a program's calls",
    "langchain-redis, RedisVL": "need a Redis with the JSON and search modules",
    "BetterDB agent-cache": "reports to a vendor unless told not to",
    "llm-response-cache": "matches prompts approximately by default",
    "callm, memollm, cached-response, agenticstack-cache, ai-cache, khazad": "small, and not tried for lack of time",
    "promptfoo": "is not Python",
    "Helicone, Portkey, Cloudflare, Braintrust, LangCache": "are services",
    "Pydantic-AI, OpenAI Agents SDK, LlamaIndex, Outlines, autoevals": "have no cache of answers",
}


def load(name: str) -> type[Contestant]:
    """The class of the contestant of that *name*. ImportError if its library is not installed."""
    module, attribute = CONTESTANTS[name].split(":")
    found: type[Contestant] = getattr(import_module(f"benchmarks.probes.contestants.{module}"), attribute)
    assert found.name == name
    return found
