"""The providers' documented rules for their prompt caches, in one table: what is long enough, how
long it lives, what it costs.

Anthropic: platform.claude.com/docs/en/build-with-claude/prompt-caching. OpenAI:
developers.openai.com/api/docs/guides/prompt-caching and the docstrings of ``prompt_cache_options``
in its SDK. As of November 2026. Dollars come from a price list; the factors here only stand in for
one.
"""

import re
from collections.abc import Mapping
from types import MappingProxyType
from typing import Final, Literal, NamedTuple, TypeAlias

__all__ = ["API", "MAX_BREAKPOINTS", "SMALLEST", "Provider", "Rules", "provider_of", "rules_for"]

Provider: TypeAlias = Literal["anthropic", "openai"]
API: TypeAlias = Literal["messages", "chat", "responses"]

MAX_BREAKPOINTS: Final = 4
"""Both providers: at most four places of a request are written. Anthropic answers 400 to a fifth,
OpenAI writes the latest four."""

SMALLEST: Final[Mapping[API, tuple[int, ...]]] = MappingProxyType(
    {"messages": (0, 1), "chat": (1, 16), "responses": (16, 64)}
)
"""Limits on the output of a request that is only to warm, smallest first; the next one is for
servers that answer 400 to it.

Anthropic: 0 writes the cache and generates nothing (not with streams, thinking, forced tools or
structured output). OpenAI's Responses take no less than 16, and reasoning models may refuse a limit
that leaves no room for an answer.
"""


class Rules(NamedTuple):
    """What holds for one model. Lifetimes: seconds from the start of the last request that wrote or
    read. Factors: of the input price."""

    provider: Provider
    minimum_tokens: int
    """A shorter prefix is not cached, and nobody says so."""
    lifetimes: Mapping[str, float]
    """By the name that the API has for them; the first is the default."""
    write_factors: Mapping[str, float]
    read_factor: float
    explicit: bool
    """Whether breakpoints can be set, and writes are reported and may cost extra."""
    lookback_blocks: int = 20
    """How many blocks before a breakpoint are searched for what an earlier request wrote
    (Anthropic)."""
    step_tokens: int = 1
    """What is read comes in multiples of this."""
    prewarm: bool = False
    """Whether the Responses API takes ``prompt_cache_options.prewarm``."""

    @property
    def default_ttl(self) -> str:
        return next(iter(self.lifetimes))

    def lifetime(self, ttl: str | None) -> float:
        """Seconds for *ttl*; ValueError if this model's API has no such one."""
        if ttl is None:
            return self.lifetimes[self.default_ttl]
        if ttl not in self.lifetimes:
            raise ValueError(
                f"ttl must be one of {', '.join(map(repr, self.lifetimes))} for this model, not"
                f" {ttl!r}"
            )
        return self.lifetimes[ttl]


_ANTHROPIC: Final = Rules(
    provider="anthropic",
    minimum_tokens=1024,
    lifetimes=MappingProxyType({"5m": 300.0, "1h": 3600.0}),
    write_factors=MappingProxyType({"5m": 1.25, "1h": 2.0}),
    read_factor=0.1,
    explicit=True,
)
_OPENAI: Final = Rules(  # gpt-5.6 and later: breakpoints, reported writes, a promised lifetime
    provider="openai",
    minimum_tokens=1024,
    lifetimes=MappingProxyType({"30m": 1800.0, "12h": 43200.0}),
    write_factors=MappingProxyType({"30m": 1.25, "12h": 1.25}),
    read_factor=0.1,
    explicit=True,
    prewarm=True,
)
# before: automatic, free writes that nobody reports; "typically 5 to 10 minutes" without use
_OPENAI_AUTOMATIC: Final = Rules(
    provider="openai",
    minimum_tokens=1024,
    lifetimes=MappingProxyType(
        {"in_memory": 300.0, "24h": 1800.0}
    ),  # 24h is a maximum: "typically about 30 minutes"
    write_factors=MappingProxyType({"in_memory": 1.0, "24h": 1.0}),
    read_factor=0.5,
    explicit=False,
    step_tokens=128,
)

# Anthropic's minimum by model, where it is not 1,024; part of the name, in all spellings that
# clouds have for it.
_MINIMUM: Final = {
    **dict.fromkeys(("opus-5", "sonnet-5-5", "fable-5", "mythos-5"), 512),
    **dict.fromkeys(("mythos-preview", "opus-4-7", "3-5-haiku", "3-haiku"), 2048),
    **dict.fromkeys(("opus-4-6", "opus-4-5", "haiku-4-5"), 4096),
}
_OPENAI_VERSION: Final = r"gpt-(\d+)(?:\.(\d+))?"
_OPENAI_NAMES: Final = r"(^|[^a-z0-9])(gpt|chatgpt|o\d|codex|computer-use)(?![a-z])"


def provider_of(model: str) -> Provider | None:
    """Whose *model* is, by its name, in all spellings that clouds have for it; None if that does
    not tell."""
    name = model.lower()
    return "anthropic" if "claude" in name else "openai" if re.search(_OPENAI_NAMES, name) else None


def rules_for(model: str, provider: Provider | None = None) -> Rules:
    """The rules of *model*; if it is not known, those of its provider: *provider*, or Anthropic for
    a Claude and OpenAI for all else."""
    name = model.lower().replace(".", "-")
    if (provider or provider_of(model)) == "anthropic":
        known = next(
            (length for part, length in _MINIMUM.items() if re.search(rf"{part}(?!\d)", name)), None
        )
        return _ANTHROPIC if known is None else _ANTHROPIC._replace(minimum_tokens=known)
    version = re.search(_OPENAI_VERSION, model.lower())
    later = version is not None and (int(version[1]), int(version[2] or 0)) >= (5, 6)
    return _OPENAI if later else _OPENAI_AUTOMATIC
