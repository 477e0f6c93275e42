"""Open the engine of a cache: check the arguments of LLMCache, then open its store."""

import os
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from llm_cache_mem.accounting import pricing
from llm_cache_mem.accounting.counters import Ledger
from llm_cache_mem.engine.engine import Engine
from llm_cache_mem.engine.recipe import DEFAULT_MAX_SIZE, Config, Recipe
from llm_cache_mem.engine.settings import Settings
from llm_cache_mem.keys.request import Keyer
from llm_cache_mem.options import check_mode, to_seconds
from llm_cache_mem.responses import admission
from llm_cache_mem.stores import StoreSettings, open_store
from llm_cache_mem.stores.base import keeps_recordings
from llm_cache_mem.stores.urls import Opened
from llm_cache_mem.values.encryption import Keys, envelope_for, warn_of_plain

if TYPE_CHECKING:  # only caches that store requests redact
    from llm_cache_mem.diagnostics.redaction import Redaction

__all__ = ["OpenEngine", "open_engine"]


class OpenEngine(NamedTuple):
    """An *engine*, whether its store *is_owned*, that is to be closed with it, and *is_bounded*,
    and the *name* of the store, without a secret."""

    engine: Engine
    recipe: Recipe
    name: str
    is_owned: bool
    is_bounded: bool


def open_engine(config: Config, encryption_key: Keys | None) -> OpenEngine:
    """The engine for *config*. Raises what LLMCache raises."""
    verification = _check(config)
    settings, keyer = _settings(config), _keyer(config)
    size = _bound(config.max_size, "max_size")
    opened = open_store(  # when all else has been found right: it makes files
        config.backend,
        StoreSettings(
            size,
            config.max_bytes,
            config.clock,
            envelope_for(encryption_key),
            config.redact,
            config.policy,
        ),
    )
    _check_store(config, opened, encryption_key)
    digests = getattr(getattr(opened.store, "envelope", None), "digests", ())
    keyer.hide(digests)
    keyer.texts = config.keep_requests or keeps_recordings(opened.store)
    settings = settings._replace(redaction=_redaction(config, opened))
    engine = Engine(opened.store, keyer, Ledger(config.clock, config.on_event), settings)
    if verification:
        from llm_cache_mem.engine.verification import Verifier

        engine.verifier = Verifier(engine, **verification)
    return OpenEngine(
        engine,
        Recipe(config, _encrypted_by(encryption_key) if digests and opened.owned else ""),
        opened.name,
        opened.owned,
        is_bounded=opened.bounded and (size is not None or config.max_bytes is not None),
    )


def _encrypted_by(encryption_key: Keys | None) -> Literal["environment", "argument"]:
    return "environment" if encryption_key is None else "argument"


def _check(config: Config) -> dict[str, Any]:
    """Check the arguments that nothing else checks; the settings of a Verifier, none where nothing
    is to be verified."""
    on_event, clock = config.on_event, config.clock
    if on_event is not None and not callable(on_event):
        raise TypeError(f"on_event must be a function of one Event, not {type(on_event).__name__}")
    if not callable(clock):
        raise TypeError(
            f"clock must be a function that gives Unix seconds, not {type(clock).__name__}"
        )
    verification = _verification(config)
    if config.coalesce not in (True, False, "fleet"):
        raise ValueError(f"coalesce must be True, False or 'fleet', not {config.coalesce!r}")
    if isinstance(config.max_size, str) and config.backend == "memory":
        raise TypeError("max_size must be a whole number: did you mean LLMCache(backend=...)?")
    return verification


def _verification(config: Config) -> dict[str, Any]:
    rate, budget_usd, on_drift = config.verify_rate, config.verify_budget_usd, config.on_drift
    for name, value in (("verify_rate", rate), ("verify_budget_usd", budget_usd)):
        if isinstance(value, bool) or not isinstance(value, (int, float, type(None))):
            raise TypeError(f"{name} must be a number, not {type(value).__name__}")
    if rate is None or not 0 <= rate <= 1:
        raise ValueError(f"verify_rate must be from 0 to 1, not {rate!r}")
    if budget_usd is not None and not budget_usd >= 0:
        raise ValueError(f"verify_budget_usd must be 0 or more, not {budget_usd!r}")
    if on_drift not in ("report", "replace", "invalidate_model"):
        raise ValueError(
            f"on_drift must be 'report', 'replace' or 'invalidate_model', not {on_drift!r}"
        )
    if config.verify_with is not None:
        from llm_cache_mem.responses.agreement import comparison

        comparison(config.verify_with)
    if not rate:
        return {}
    return {
        "rate": rate,
        "verify_with": config.verify_with,
        "budget_usd": budget_usd,
        "on_drift": on_drift,
    }


def _settings(config: Config) -> Settings:
    environment = os.environ.get("LLM_CACHE_MEM_MODE") or "on"
    return Settings(
        ttl_seconds=to_seconds(config.ttl_seconds),
        max_bytes=_bound(config.max_bytes, "max_bytes"),
        mode=(
            check_mode(environment, "LLM_CACHE_MEM_MODE")
            if config.mode is None
            else check_mode(config.mode)
        ),
        admit=admission.resolve(config.admit),
        own_admit=callable(config.admit),
        price=pricing.resolve(config.prices),
        coalesce=config.coalesce,
        wait_seconds=to_seconds(config.wait_seconds, "wait_seconds") or 600.0,
        strict=_switch(config.strict, "strict"),
        clock=config.clock,
    )


def _keyer(config: Config) -> Keyer:
    return Keyer(
        config.namespace,
        config.key_fn,
        config.ignore,
        texts=_switch(config.keep_requests, "keep_requests"),
        require_namespace=_switch(config.require_namespace, "require_namespace"),
    )


def _check_store(config: Config, opened: Opened, encryption_key: Keys | None) -> None:
    """Check the arguments that do not go with every store."""
    unset = (DEFAULT_MAX_SIZE, None) if opened.owned else (DEFAULT_MAX_SIZE,)
    if not opened.bounded and (config.max_bytes is not None or config.max_size not in unset):
        raise ValueError(
            f"{opened.name} takes no max_size or max_bytes from here: a server has its own memory"
            " settings, a store object has the bounds it was made with, and recordings are only"
            " removed explicitly"
        )
    if opened.owned:
        return
    if encryption_key is not None:
        raise ValueError(
            "a store that is handed in has an envelope of its own: give it"
            " envelope=llm_cache_mem.values.encryption.Encryption(key)"
        )
    if config.redact and keeps_recordings(opened.store):
        raise ValueError(
            "a store of recordings that is handed in redacts by itself: give redact to it"
        )
    warn_of_plain(opened.store, opened.name)


def _redaction(config: Config, opened: Opened) -> "Redaction | None":
    """What to remove from stored requests; None for a cache that stores none."""
    records = keeps_recordings(opened.store)
    own = getattr(opened.store, "redaction", None) if records else None
    if own or not (config.keep_requests or config.redact or records):
        return own
    from llm_cache_mem.diagnostics.redaction import Redaction

    return Redaction(config.redact)


def _bound(value: Any, name: str) -> int | None:
    if value is not None and (isinstance(value, bool) or not isinstance(value, int)):
        raise TypeError(f"{name} must be a whole number or None, not {type(value).__name__}")
    if value is not None and value < 1:
        raise ValueError(f"{name} must be at least 1 (None: unbounded), not {value}")
    return value


def _switch(value: Any, name: str) -> bool:
    if not isinstance(value, bool):  # "no" would mean yes
        raise TypeError(f"{name} must be True or False, not {value!r}")
    return value
