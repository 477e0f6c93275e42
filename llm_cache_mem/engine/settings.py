"""What an engine works by: its settings, the mode and ttl in force, and the freshness rule."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from llm_cache_mem.accounting.pricing import Pricer
from llm_cache_mem.options import INHERITED, Mode, current
from llm_cache_mem.values.entry import Entry

if TYPE_CHECKING:  # only caches that store requests redact
    from llm_cache_mem.diagnostics.redaction import Redaction

__all__ = ["Settings"]

_FUTURE_SECONDS = 60.0  # an entry from further ahead was written by a clock that is wrong: a miss


class Settings(NamedTuple):
    """The settings of an Engine, checked and resolved."""

    ttl_seconds: float | None
    max_bytes: int | None
    mode: Mode
    admit: Callable[[object], str | None]
    own_admit: bool
    price: Pricer
    coalesce: bool | Literal["fleet"]
    wait_seconds: float
    strict: bool
    clock: Callable[[], float]
    redaction: "Redaction | None" = None
    """What is removed from stored requests; None in a cache that stores none."""
    free: bool = False
    """Whether answers cost nothing, as results of tools do: no usage is read from them."""
    ttl_fn: Callable[[float | None], float | None] | None = None
    """What makes the ttl of a call from that of the cache, where more than options count."""

    def current_mode(self) -> Mode:
        """The mode of calls in this context."""
        asked: Any = current().mode
        mode: Mode = self.mode if asked is INHERITED else asked
        return mode

    def current_ttl(self) -> float | None:
        """The ttl of calls in this context, in seconds; None for no limit."""
        asked: Any = current().ttl_seconds
        ttl: float | None = self.ttl_seconds if asked is INHERITED else asked
        return ttl if self.ttl_fn is None else self.ttl_fn(ttl)

    def is_fresh(self, entry: Entry, now: float) -> bool:
        """Whether the entry's own expiry and this reader's ttl both allow it: the stricter wins."""
        expires_at, age, ttl = entry.expires_at, now - entry.stored_at, self.current_ttl()
        return (
            (expires_at is None or now < expires_at)
            and (ttl is None or age < ttl)
            and age >= -_FUTURE_SECONDS
        )
