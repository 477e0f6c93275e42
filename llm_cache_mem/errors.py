"""Every exception, on one page.

```text
LLMCacheError
├── RequestNotCacheable   (also a ValueError)   the request has no single wire form
├── ValueNotCacheable     (also a TypeError)    the value cannot make the round trip
├── CacheMissError        (also a LookupError)  mode="replay" and nothing stored
├── BatchFailed                                 a request in a provider's batch has no answer
├── BudgetSpent                                 a run stopped at its budget_usd
├── EntryUnreadable       (also a ValueError)   stored bytes that are not a whole entry of ours
└── StoreError                                  a store failed, with strict=True
```
"""

import re

from llm_cache_mem._util.terminal import visible

__all__ = [
    "BatchFailed",
    "BudgetSpent",
    "CacheMissError",
    "EntryUnreadable",
    "LLMCacheError",
    "RequestNotCacheable",
    "StoreError",
    "ValueNotCacheable",
]


class LLMCacheError(Exception):
    """Base of all that this library raises on its own account."""

    def __str__(self) -> str:
        return visible(super().__str__(), lines=True)


class _AtPath(LLMCacheError):
    """A refusal of one part of an object: *path* says where, *reason* says why, neither what it
    held."""

    what = "object"

    def __init__(self, path: str, reason: str) -> None:
        super().__init__(path, reason)
        self.path = path
        self.reason = reason

    def __str__(self) -> str:
        return visible(f"{self.what} not cacheable at {self.path}: {self.reason}")


class RequestNotCacheable(_AtPath, ValueError):
    """The request has no single form on the wire; *path* is like
    ``messages[2].content[0].source``."""

    what = "request"
    skipped_as = "request"
    """The reason under which calls are counted that go uncached because of it."""


class NamespaceMissing(RequestNotCacheable):
    """A cache with ``require_namespace=True`` was used outside of any namespace."""

    skipped_as = "namespace"

    def __init__(self) -> None:
        super().__init__(
            "namespace",
            "this cache requires one, and this thread or process has none: call it inside"
            ' options(namespace="...")',
        )


class StatefulRequest(RequestNotCacheable):
    """The request names something that its provider holds, such as a conversation, so that the same
    request may be answered otherwise next time."""

    skipped_as = "stateful"

    def __init__(self, path: str, reason: str = "") -> None:
        super().__init__(
            path,
            reason
            or "it names what the provider holds; options(stateful=True) caches it all the same",
        )


class SamplesTaken(RequestNotCacheable):
    """All samples that ``options(samples=...)`` allows of a request have been taken in its
    block."""

    skipped_as = "samples"

    def __init__(self, samples: int) -> None:
        super().__init__(
            "samples",
            f"options(samples={samples}) is for {samples} answers, and this call needs one more",
        )


class ValueNotCacheable(_AtPath, TypeError):
    """The value would not come back equal and of the same type; *path* is like
    ``value.choices[0]``."""

    what = "value"


_DIGEST = re.compile(r"(\b1:[^\s:]*:[^\s:]+:[0-9a-f]{8})[0-9a-f]{56}")
"""A stored key, of which 8 digits are shown, so that the fields that differ stand out."""


class CacheMissError(LLMCacheError, LookupError):
    """``mode="replay"`` and the store holds no answer for *key*, or one that is *unreadable* for
    the reason given.

    *where*: the file of recordings, if it is one. *explanation* is an Explanation where the cache
      keeps requests: the text then
    quotes from this request and from the nearest that is recorded, shortened and without secrets.
    """

    def __init__(
        self,
        key: str,
        explanation: object = None,
        unreadable: str | None = None,
        where: str | None = None,
    ) -> None:
        super().__init__(key, explanation, unreadable, where)
        self.key = key
        self.explanation = explanation
        self.unreadable = unreadable
        self.where = where
        self.advice = "mode='on'"
        """How to record it, as the text says."""

    def __str__(self) -> str:
        where = "" if self.where is None else f" in {self.where}"
        if self.unreadable is not None:
            what = f"what is recorded{where} for {self.key} cannot be read here: {self.unreadable}"
            return visible(f"replay: {what}; record it again with mode='refresh'")
        what = f"nothing recorded{where} for {self.key}"
        why = "" if self.explanation is None else f"\n{self.explanation}"
        text = visible(f"replay: {what}; record it first with {self.advice}") + why
        return _DIGEST.sub(r"\1", text)

    def __repr__(self) -> str:
        return f"CacheMissError({self.key!r})"


class BatchFailed(LLMCacheError):
    """A request in a provider's batch was not answered; *reason* is the provider's word for why,
    such as ``expired``."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason

    def __str__(self) -> str:
        return visible(f"not answered in the batch: {self.reason}")


class BudgetSpent(LLMCacheError):
    """A run has no dollars left for this request, of which no answer is stored."""


class EntryUnreadable(LLMCacheError, ValueError):
    """Stored bytes that are damaged, foreign, or that need more than this process has.

    *newer* tells the last, a newer version of the library or a class that is not imported or
      registered here yet: a miss, but
    one to leave in the store, since another process can read it, or this one later.
    """

    def __init__(self, reason: str, *, newer: bool = False) -> None:
        super().__init__(reason)
        self.reason = reason
        self.newer = newer


class StoreError(LLMCacheError):
    """*store* failed at *operation*; the cause is chained. Its text holds no key, value or
    password."""

    def __init__(self, store: str, operation: str, reason: str) -> None:
        super().__init__(store, operation, reason)
        self.store = store
        self.operation = operation
        self.reason = reason

    def __str__(self) -> str:
        return visible(f"{self.store}: {self.operation} failed: {self.reason}", lines=True)
