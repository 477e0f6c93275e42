"""Whether a store is to be encrypted, and with what: said by an argument, or by the environment."""

import os
from collections.abc import Callable, Sequence

from llm_cache_mem._util import log
from llm_cache_mem.values.entry import PLAIN, Envelope

__all__ = ["KEY_VARIABLE", "Keys", "envelope_for", "named_key", "warn_of_plain"]

KEY_VARIABLE = "LLM_CACHE_MEM_KEY"

Keys = bytes | str | Sequence[bytes | str]


def named_key() -> str | None:
    """The key, or keys, that the environment names."""
    return os.environ.get(KEY_VARIABLE) or None


def envelope_for(encryption_key: Keys | None) -> Callable[[], Envelope]:
    """What gives the envelope of a store that keeps bytes. ValueError or TypeError at once for what
    is no key, ImportError without the extra; what the environment names is looked at only when a
    store needs it."""
    if encryption_key is None:
        return lambda: PLAIN if named_key() is None else _encryption(named_key() or "")
    envelope = _encryption(encryption_key)
    return lambda: envelope


def warn_of_plain(store: object, name: str) -> None:
    """Say so if the environment names a key, and *store*, which its owner made, writes without
    one."""
    if named_key() is not None and getattr(store, "envelope", None) is PLAIN:
        log.warning(
            __name__,
            "%s does not reach a %s that is handed in: what it keeps is not encrypted",
            KEY_VARIABLE,
            name,
        )


def _encryption(keys: Keys) -> Envelope:
    from llm_cache_mem.values.encryption import PLAIN_KEY, Encryption  # needs an extra

    return PLAIN if keys == PLAIN_KEY else Encryption(keys)
