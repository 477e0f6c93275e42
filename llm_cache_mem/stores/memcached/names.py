"""What entries, generations and leases are called on a Memcached server, and how times are told to
it."""

import functools
from time import time

from llm_cache_mem._util import hashing

__all__ = [
    "ENTRY",
    "GENERATION",
    "GENERATION_BYTES",
    "lease_name",
    "live",
    "named",
    "names_of",
    "told_as",
]

ENTRY = b"lcm:"
GENERATION = b"lcm-generation:"
_LEASE = b"lcm-lease:"
GENERATION_BYTES = 16
_LONGEST_NAME = 250
_DAYS_30 = 30 * 86400  # what is more counts as a date
_LAST_DATE = 2**31 - 1


@functools.lru_cache(maxsize=4096)
def names_of(key: str) -> tuple[bytes, bytes]:
    """Under which names an entry and the generation of its namespace are kept."""
    schema, _, rest = key.partition(":")
    namespace, colon, _ = rest.partition(":")
    return named(ENTRY, key), named(GENERATION, f"{schema}:{namespace}:" if colon else "")


def named(kind: bytes, text: str) -> bytes:
    """What is *kind* and *text* on the server; a hash where that could be no name, of an entry that
    is then not listed."""
    name = kind + text.encode("utf-8", "surrogatepass")
    if len(name) <= _LONGEST_NAME and text.isascii() and text.isprintable() and " " not in text:
        return name
    return b"%b#%b" % (kind[:-1], hashing.sha256(name).hexdigest().encode())


def lease_name(key: str) -> bytes:
    return named(_LEASE, key)


def live(generation: object, value: object) -> bytes | None:
    """What follows the generation in *value*, if it is the one that counts."""
    if (
        type(value) is not bytes
        or type(generation) is not bytes
        or len(generation) != GENERATION_BYTES
    ):
        return None
    return value[GENERATION_BYTES:] if value[:GENERATION_BYTES] == generation else None


def told_as(seconds: int) -> int:
    """*seconds* from now, as a server wants it told."""
    return seconds if seconds <= _DAYS_30 else min(int(time()) + seconds, _LAST_DATE)
