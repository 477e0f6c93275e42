"""The providers' documented rules for their prompt caches: minimum length, lifetimes, cost factors.

Anthropic: platform.claude.com/docs/en/build-with-claude/prompt-caching. OpenAI:
developers.openai.com/api/docs/guides/prompt-caching and the docstrings of ``prompt_cache_options``
in its SDK. As of November 2026. Dollars come from a price list; factors serve where it
has no price.
"""

import re
from collections.abc import Mapping
from types import MappingProxyType
from typing import Final, Literal, NamedTuple, TypeAlias

__all__ = ["API", "MAX_BREAKPOINTS", "SMALLEST", "Provider", "Rules", "provider_of", "rules_for"]

Provider: TypeAlias = Literal["anthropic", "openai"]
API: TypeAlias = Literal["messages", "chat", "responses"]

MAX_BREAKPOINTS: Final = 4
"""At both providers. Anthropic answers a fifth with 400, OpenAI writes the last four."""

SMALLEST: Final[Mapping[API, tuple[int, ...]]] = MappingProxyType(
    {"messages": (0, 1), "chat": (1, 16), "responses": (16, 64)}
)
"""Output limits for a request that only warms, smallest first; the next one is for servers that
answer with 400.

Anthropic: 0 writes the cache and generates nothing (not with streams, thinking, forced tools or
structured output). OpenAI's Responses take no less than 16, and reasoning models may refuse a limit
that leaves no room for an answer.
"""


class Rules(NamedTuple):
    """The rules for one model. Lifetimes are seconds since the start of the last request that used
    the cache; factors are multiples of the input price."""

    provider: Provider
    minimum_tokens: int
    """A shorter prefix is not cached, without an error."""
    lifetimes: Mapping[str, float]
    """By their names in the API; the first is the default."""
    write_factors: Mapping[str, float]
    read_factor: float
    explicit: bool
    """Whether requests can set breakpoints, and writes are reported and may cost extra."""
    step_tokens: int = 1
    """Tokens are read in multiples of this."""
    prewarm: bool = False
    """Whether the Responses API takes ``prompt_cache_options.prewarm``."""

    @property
    def default_ttl(self) -> str:
        return next(iter(self.lifetimes))

    def lifetime(self, ttl: str | None) -> float:
        """The seconds of *ttl*; ValueError if the model's API has no such lifetime."""
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
# before: automatic, with free, unreported writes; "typically 5 to 10 minutes" without use
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

# Anthropic's minimum by model, if it is not 1,024, by a part of the name in all clouds' spellings.
_MINIMUM: Final = {
    **dict.fromkeys(("opus-5", "sonnet-5-5", "fable-5", "mythos-5"), 512),
    **dict.fromkeys(("mythos-preview", "opus-4-7", "3-5-haiku", "3-haiku"), 2048),
    **dict.fromkeys(("opus-4-6", "opus-4-5", "haiku-4-5"), 4096),
}
_OPENAI_VERSION: Final = r"gpt-(\d+)(?:\.(\d+))?"
_OPENAI_NAMES: Final = r"(^|[^a-z0-9])(gpt|chatgpt|o\d|codex|computer-use)(?![a-z])"


def provider_of(model: str) -> Provider | None:
    """The provider of *model*, by its name in any cloud's spelling; None if that does not tell."""
    name = model.lower()
    return "anthropic" if "claude" in name else "openai" if re.search(_OPENAI_NAMES, name) else None


def rules_for(model: str, provider: Provider | None = None) -> Rules:
    """The rules for *model*; for an unknown one those of *provider*, or else of Anthropic for a
    Claude and OpenAI for any other."""
    name = model.lower().replace(".", "-")
    if (provider or provider_of(model)) == "anthropic":
        known = next(
            (length for part, length in _MINIMUM.items() if re.search(rf"{part}(?!\d)", name)), None
        )
        return _ANTHROPIC if known is None else _ANTHROPIC._replace(minimum_tokens=known)
    version = re.search(_OPENAI_VERSION, model.lower())
    later = version is not None and (int(version[1]), int(version[2] or 0)) >= (5, 6)
    return _OPENAI if later else _OPENAI_AUTOMATIC
