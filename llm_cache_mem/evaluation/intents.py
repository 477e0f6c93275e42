"""Intents: the batches that are under way, written into the cache's own store before they are
submitted, so that a restart finds them."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from hashlib import sha256
from typing import Any, Final
from uuid import uuid4

from llm_cache_mem.engine.engine import Engine
from llm_cache_mem.values.entry import Entry
from llm_cache_mem.values.payload import Payload

__all__ = ["Intent", "Intents", "custom_id_of"]

_KIND: Final = "batch"


def custom_id_of(key: str) -> str:
    """The id by which a provider tells the request of *key*: its own limit is 64 characters."""
    return sha256(key.encode()).hexdigest()


@dataclass(eq=False)
class Intent:
    """A batch: *mark* is ours, *batch* the provider's id, None until that is known; *keys* are
    those of its requests, and *at* is when it was intended, in Unix seconds. *generation* is that
    of the documents that its answers depend on."""

    provider: str
    keys: Sequence[str]
    at: float
    batch: str | None = None
    generation: str | None = None
    mark: str = field(default_factory=lambda: uuid4().hex)

    @property
    def rank(self) -> tuple[float, str]:
        """Of two processes that intend the same request at once, the one of lower rank submits
        it."""
        return self.at, self.mark


class Intents:
    """The intents in the namespace of *engine*. Raises StoreError: without a note of it, nothing is
    submitted."""

    def __init__(self, engine: Engine) -> None:
        self._keyer = engine.keyer
        self._store = engine.backend.inner

    def all(self, provider: str) -> list[Intent]:
        """The intents of *provider*, those of other processes too."""
        found = []
        for _, entry in self._store.entries(self._keyer.prefix(_KIND)):
            value: Any = entry.payload.decode()
            if value["provider"] == provider:
                found.append(Intent(**value))
        return sorted(found, key=lambda intent: intent.rank)

    def write(self, intent: Intent) -> None:
        """Write *intent*, or what is now known of it."""
        fields = {
            name: getattr(intent, name)
            for name in ("provider", "at", "batch", "generation", "mark")
        }
        payload = Payload.of({**fields, "keys": list(intent.keys)})
        self._store.put(self._key(intent), Entry(payload, intent.at, None))

    def remove(self, intent: Intent) -> None:
        """Forget *intent*: all its results are stored, or it was never submitted."""
        self._store.delete(self._key(intent))

    def _key(self, intent: Intent) -> str:
        return self._keyer.prefix(_KIND) + custom_id_of(intent.mark)
