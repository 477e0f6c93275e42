"""Recipes: how to make a cache again, in this process or in one that a framework starts.

A worker starts without the options of the context in which its work was handed in, so a cache that
is pickled takes them along as its own settings.
"""

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any, Final, Literal, NamedTuple, TypeVar

from llm_cache_mem.options import INHERITED, Duration, Mode, current, lost_namespace
from llm_cache_mem.stores import Backend, MemoryStore
from llm_cache_mem.values.encryption import KEY_VARIABLE, named_key

if TYPE_CHECKING:  # only caches that store requests redact
    from llm_cache_mem.diagnostics.redaction import Rule

__all__ = ["DEFAULT_MAX_SIZE", "Config", "Recipe", "for_workers", "has_same_settings", "reopen"]

Cache = TypeVar("Cache")

DEFAULT_MAX_SIZE: Final = 256
"""Most entries of a cache that is not told; stores that bound themselves take no other."""


class Config(NamedTuple):
    """The arguments of LLMCache, except for the encryption key."""

    max_size: int | None
    ttl_seconds: Duration
    backend: Backend
    namespace: str
    key_fn: Callable[..., Any] | None
    ignore: Iterable[str]
    max_bytes: int | None
    admit: Literal["complete", "any"] | Callable[[Any], Any]
    mode: Mode | None
    prices: Any
    coalesce: bool | Literal["fleet"]
    wait_seconds: Duration
    strict: bool
    require_namespace: bool
    policy: Literal["lru", "sieve"]
    keep_requests: bool
    redact: "Iterable[Rule]"
    verify_rate: float
    verify_with: Any
    verify_budget_usd: float | None
    on_drift: Any
    on_event: Callable[[Any], object] | None
    clock: Callable[[], float]


class Recipe(NamedTuple):
    """A *config*, and what else a cache in another process needs.

    *encrypted_by*: where the encryption key of the store came from. *sample* and *depends_on*: the
    options that are no settings of a cache. *is_final*: the options are in it already.
    """

    config: Config
    encrypted_by: Literal["", "environment", "argument"]
    sample: int = 0
    depends_on: tuple[str, ...] = ()
    is_final: bool = False

    def with_options(self) -> "Recipe":
        """The recipe of a cache whose settings are the options of this context."""
        if self.is_final:
            return self
        asked = current()
        return self._replace(
            config=self._config_here(),
            sample=asked.sample or self.sample,
            depends_on=tuple(sorted({*self.depends_on, *asked.depends_on})),
            is_final=True,
        )

    def pickled(self) -> "Recipe":
        """The recipe for another process; TypeError if the encryption key would have to be in
        it."""
        if self.encrypted_by == "argument":
            raise TypeError(
                "a cache with an encryption_key is not pickled, for the key would be in it: let"
                f" {KEY_VARIABLE} name the key"
            )
        return self.with_options()._replace(is_final=False)

    def check(self) -> None:
        """ValueError if the encryption key is not at hand in this process."""
        if self.encrypted_by == "environment" and named_key() is None:
            raise ValueError(
                f"this cache is encrypted with a key that {KEY_VARIABLE} named, and here it names"
                " none"
            )

    def _config_here(self) -> Config:
        """The config with the options of this context. Where they cannot be told, a cache without a
        namespace of its own requires that of the worker."""
        if lost_namespace() and not self.config.namespace:
            return self.config._replace(require_namespace=True)
        asked = current()._asdict()
        names = ("ttl_seconds", "mode", "namespace")
        given = {name: asked[name] for name in names if asked[name] is not INHERITED}
        return self.config._replace(**given)


def reopen(cls: Callable[..., Any], recipe: Recipe) -> Any:
    """The LLMCache, of class *cls*, that *recipe* describes."""
    recipe.check()
    cache = cls(**recipe.config._asdict())
    cache._recipe = recipe
    cache.engine.keyer.sample = recipe.sample
    cache.engine.keyer.depends_on = recipe.depends_on
    cache.engine.keyer.travelled = True
    return cache


def for_workers(cache: Cache) -> Cache:
    """*cache*, an LLMCache, with the options of this context as its settings where it is pickled,
    by whichever thread: pools do that in threads of their own."""
    made: Any = cache
    carried = object.__new__(type(cache))
    carried.__dict__.update({**vars(cache), "_recipe": made._recipe.with_options()})
    return carried


def has_same_settings(cache: Any, other: Any) -> bool:
    """Whether two LLMCaches were made with the same settings on the same file or server."""
    shared = cache.engine.backend.inner
    same: bool = cache._recipe.config == other._recipe.config
    return same and not isinstance(shared, MemoryStore)
