"""The decisions about one HTTP exchange, without I/O: is it cacheable, may callers share it, is the
response worth storing."""

from collections.abc import Hashable
from hashlib import sha256
from typing import Any, Literal, NamedTuple

from llm_cache_mem.cache import LLMCache
from llm_cache_mem.engine.batches import Found
from llm_cache_mem.engine.layers import Above, Outcome
from llm_cache_mem.engine.reader import Hit
from llm_cache_mem.errors import RequestNotCacheable
from llm_cache_mem.http import request as requests
from llm_cache_mem.http.answer import Head, Recording, StoredResponse
from llm_cache_mem.http.embeddings import Batch, batch_of
from llm_cache_mem.http.exchange import Live, Wire
from llm_cache_mem.http.headers import (
    AGE,
    MARK,
    SAVED_SECONDS,
    SAVED_TOKENS,
    SAVED_USD,
    credentials_of,
)
from llm_cache_mem.http.onlookers import sums_usage, tell_run
from llm_cache_mem.http.providers import uncached_reason
from llm_cache_mem.http.view import view
from llm_cache_mem.http.zero_live import zeroed
from llm_cache_mem.http.zero_usage import without_usage
from llm_cache_mem.keys.dependencies import Dependencies
from llm_cache_mem.keys.request import Request
from llm_cache_mem.keys.state import refuse_stateful
from llm_cache_mem.values.entry import Entry

__all__ = ["Core", "Texts", "Uncached", "Usage", "depending", "hit_head", "live_head", "texts_head"]

_KIND = "http"
_KIND_OF_TEXTS = "embedding"
_OF_THE_BYTES = (b"content-encoding", b"content-length", b"transfer-encoding")

Usage = Literal["zero", "keep"]
"""What hits report: no tokens, or those of the call that was made."""


class Uncached(NamedTuple):
    """A request that is passed on untouched. *reason*: the one for which it is counted as skipped,
    None for a request that is not for the cache. *generates*: whether it asks a model, in a form
    that the cache knows."""

    reason: str | None = None
    generates: bool = False


class Texts(NamedTuple):
    """A request for embeddings, and the *requests* for each of its texts."""

    batch: Batch
    requests: list[Request]


class Core:
    """What a cache makes of exchanges. Thread-safe."""

    def __init__(self, cache: LLMCache, usage: Usage | None = None) -> None:
        if not isinstance(cache, LLMCache):
            raise TypeError(f"a cache transport takes an LLMCache, not {type(cache).__name__}")
        if usage not in ("zero", "keep", None):
            raise ValueError(f"usage must be 'zero', 'keep' or None, not {usage!r}")
        self.cache = cache
        self.engine = cache.engine
        self.usage: Usage | None = usage

    def cacheable(self, wire: Wire) -> Request | Texts | Uncached:
        """The request with its key, those for the texts of an embedding, or why it is passed on
        untouched.

        Raises LLMCacheError in mode ``replay``, where nothing may be passed on.
        """
        if self.engine.is_off:
            return Uncached()
        if not requests.is_generation(wire.method, wire.path, wire.content_type):
            return self._pass_on(wire)
        try:
            fields = requests.fields_of(wire.body())
            address = (wire.base_url, wire.path, wire.query, wire.headers)
            batch = batch_of(*address, fields)
            read = requests.asked(*address, fields) if batch is None else batch.asks[0]
            if not self.concerns(wire, read):
                return Uncached()
            refuse_stateful(read.state)
            if batch is None:
                asked = (read.messages, read.params, _KIND, view)
                return self.engine.keyer.request(*asked, draws=True)
            return Texts(
                batch,
                [self.engine.keyer.request(*ask[:2], _KIND_OF_TEXTS, view) for ask in batch.asks],
            )
        except RequestNotCacheable as exc:
            if self.engine.is_replay:
                raise
            self.skip(exc.skipped_as, "a call goes uncached: %s", exc)
            return Uncached(exc.skipped_as, generates=True)

    def tell(self, above: Above | None, found: Request | Texts | Uncached) -> None:
        """Tell the layer *above* that its call is counted here."""
        if above is None:
            return
        above.seen = not isinstance(found, Uncached)
        if isinstance(found, Uncached) and found.generates:
            above.answered("skipped", None)

    def chunks(
        self, above: Above | None, hit: Hit, outcome: Outcome, request: Request
    ) -> list[bytes]:
        """The body of a hit, with its usage or with zeros in place of it; a layer *above* is told
        of the hit, and decides."""
        response: StoredResponse = hit.value
        if above is not None:
            above.answered(outcome, request.key, hit)
        tell_run(outcome)
        return without_usage(response) if self.reports_zero(above) else response.chunks

    def live(
        self, found: Any, subscriber: Any, above: Above | None, *, coalesced: bool
    ) -> tuple[Head, Any]:
        """The head and the body of a response in progress, a broadcast that was *found*; with zeros
        for its usage where another's call is shared, as ``chunks``."""
        head = live_head(found.head, coalesced)
        if not coalesced or head.status != 200:
            return head, subscriber
        tell_run("coalesced")
        zero = self.reports_zero(above)
        return zeroed(head, found.recording, subscriber) if zero else (head, subscriber)

    def reports_zero(self, above: Above | None) -> bool:
        """Whether a hit is to report no tokens."""
        if above is not None:
            return above.zero_usage
        return sums_usage() if self.usage is None else self.usage == "zero"

    def passed(self, above: Above, response: Any) -> Any:
        """The *response* to a call that was left to the layer *above*, which makes no other if it
        succeeded."""
        status = getattr(response, "status_code", None) or getattr(response, "status", None)
        above.is_over = status == 200
        return response

    def concerns(self, wire: Wire, asked: requests.Asked) -> bool:
        """Whether a request to the path of an endpoint is one for a model."""
        return True

    def _pass_on(self, wire: Wire) -> Uncached:
        """Count a request as skipped whose endpoint generates or counts, but is not cached."""
        if self.engine.is_replay:
            raise RequestNotCacheable(
                f"{wire.method} {wire.path}",
                "in mode replay nothing is sent, and only generation requests are stored",
            )
        reason = uncached_reason(wire.method, wire.path)
        if reason is not None:
            self.skip(reason, "a call goes uncached: nothing caches %s", reason)
        return Uncached(reason)

    def skip(self, reason: str, text: str, *args: object) -> None:
        """Count a call as skipped, and log why, once in a while."""
        self.engine.skip(reason, text, *args)

    def pass_over(self, reason: str, why: str) -> Uncached:
        """Count a request as skipped for a *reason* that has nothing to do with what it asks."""
        if self.engine.is_replay:
            raise RequestNotCacheable(reason, f"in mode replay nothing is sent, and {why}")
        self.engine.skip(reason, "a call goes uncached: %s", why)
        return Uncached(reason, generates=True)

    def circumstances(self, wire: Wire) -> Hashable:
        """A digest of what outside the key can make the request fail: credentials, timeouts,
        transport, and the fields of the body that are not in the key."""
        facts = (wire.connection, credentials_of(wire.headers, wire.query))
        digest = sha256(repr(facts).encode("utf-8", "surrogatepass"))
        digest.update(wire.body())
        return digest.digest()

    def should_store(self, recording: Recording, at_end: bool) -> bool:
        """Whether the response is whole; if not although it was read to its end, count it as
        skipped."""
        if recording.whole or recording.status != 200:
            return recording.whole
        if at_end or recording.fault is not None:
            self.engine.skip(recording.fault or "incomplete", "an answer was not stored: %s")
        return False

    def recording(self, live: Live, path: str) -> Recording:
        """A recording of the response of the endpoint at *path*, still empty."""
        return Recording(live.head.status, live.headers, live.decoder, path)


def depending(request: Request, above: Above | None) -> Request:
    """*request*, whose answer depends on what the call of the layer *above* does."""
    if above is None or not above.depends_on:
        return request
    own = () if request.depends_on is None else request.depends_on.names
    return request._replace(depends_on=Dependencies((*own, *above.depends_on)))


def live_head(head: Head, coalesced: bool) -> Head:
    """The head of a response from the provider, its headers marked; an error's as it came."""
    if head.status != 200:
        return head
    ours = MARK.encode()
    headers = [pair for pair in head.headers if pair[0].lower() != ours]
    return head._replace(headers=[*headers, (ours, b"coalesced" if coalesced else b"miss")])


def hit_head(hit: Hit, mark: str) -> Head:
    """The head of a stored response: its own headers, *mark*, its age and what it saved."""
    headers = [*hit.value.headers, (MARK, mark), (AGE, str(max(0, int(hit.age))))]
    headers += _saved([hit.entry])
    raw = [(name.encode("latin-1"), value.encode("utf-8")) for name, value in headers]
    return Head(hit.value.status, raw, {})


def texts_head(live: Live | None, mark: str, found: list[Found]) -> Head:
    """The head of a response that is made of what was *found* for each text, and of what the
    response *live* gave for those that were sent."""
    hits = [each for each in found if each.outcome != "miss"]
    pairs = [(MARK, mark)]
    if live is None:
        headers = found[0].value.headers
        pairs = [*(headers or [("content-type", "application/json")]), *pairs]
        pairs.append((AGE, str(max(0, int(max(each.age for each in hits))))))
    pairs += _saved([each.entry for each in hits if each.entry is not None])
    raw = [(name.encode("latin-1"), value.encode("utf-8")) for name, value in pairs]
    if live is None:
        return Head(200, raw, {})
    ours = {*_OF_THE_BYTES, *(name for name, _ in raw)}
    return live.head._replace(
        headers=[pair for pair in live.head.headers if pair[0].lower() not in ours] + raw
    )


def _saved(entries: list[Entry]) -> list[tuple[str, str]]:
    """What hits on *entries* saved, as headers."""
    found = []
    costs = [entry.cost_usd for entry in entries if entry.cost_usd is not None]
    if costs:
        found.append((SAVED_USD, f"{sum(costs):.6f}"))
    usages = [entry.usage for entry in entries if entry.usage is not None]
    if usages:
        read, written = (sum(usage[at] for usage in usages) for at in (0, 1))
        found.append((SAVED_TOKENS, f"input={read}, output={written}"))
    seconds = [entry.seconds for entry in entries if entry.seconds is not None]
    if seconds:
        found.append((SAVED_SECONDS, f"{sum(seconds):.3f}"))
    return found
