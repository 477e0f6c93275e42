"""The contestants, each imported only when it is asked: one class of Peer for each way to configure
a cache."""

from importlib import import_module

from benchmarks.probes.contestant import Contestant

__all__ = ["CONTESTANTS", "NOT_TRIED", "OURS", "load"]

# In the order of the table's columns. The key is what --only takes.
CONTESTANTS = {
    "llm-cache-mem": "ours:Memory",
    "llm-cache-mem, SQLite": "ours:SQLite",
    "llm-cache-mem, Redis": "ours:Redis",
    "llm-cache-mem, LangChain": "langchain:Ours",
    "llm-cache-mem, LLMCacheMem alone": "langchain:OursAlone",
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
    "inspect_ai": "inspect_ai:InspectAI",
    "instructor": "instructor:Memory",
    "instructor, disk": "instructor:Disk",
    "BetterDB agent-cache": "betterdb:BetterDB",
    "callm": "callm:Callm",
    "agenticstack-cache": "agenticstack:AgenticStack",
    "cached-response": "cached_response:CachedResponse",
    "demystify": "demystify:Demystify",
    "diskcache": "functions:DiskCache",
    "cachetools": "functions:CacheTools",
    "cashews": "functions:Cashews",
    "aiocache": "functions:AioCache",
}
OURS = tuple(name for name in CONTESTANTS if name.startswith("llm-cache-mem"))

NOT_TRIED = {
    "lm-eval": "caches an evaluation harness, not a program's calls",
    "langchain-redis": (
        "installs; its first write to Redis 7.0.15 raised `unknown command 'JSON.SET'`: it needs"
        " the JSON module"
    ),
    "RedisVL": "caches by meaning, and needs the search module of Redis",
    "ai-cache": (
        "0.1.1 does not recognize openai 2: it patches what that SDK had before 1.0, and no call is"
        " answered from its cache"
    ),
    "llm-response-cache": "takes a prompt for a request, and matches approximately by default",
    "memollm, khazad": "match by meaning, and want sentence-transformers, and so PyTorch",
    "llm-cache-proxy": "is a server of one provider's address, not a library",
    "promptfoo": "is not Python",
    "Helicone, Portkey, Cloudflare, Braintrust, LangCache": "are services",
    "Pydantic-AI, OpenAI Agents SDK, LlamaIndex, Outlines, autoevals": "have no cache of answers",
}


def load(name: str) -> type[Contestant]:
    """The class of the contestant of that *name*. ImportError if its library is not installed."""
    module, attribute = CONTESTANTS[name].split(":")
    found: type[Contestant] = getattr(
        import_module(f"benchmarks.probes.contestants.{module}"), attribute
    )
    assert found.name == name
    return found
