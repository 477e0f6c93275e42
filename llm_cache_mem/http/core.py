"""The decisions about one HTTP exchange, without I/O: is it cacheable, may callers share it, is the
response worth storing."""

from collections.abc import Hashable
from hashlib import sha256
from typing import Any, Literal

from llm_cache_mem.cache import LLMCache
from llm_cache_mem.engine.calls import Hit
from llm_cache_mem.engine.layers import Above, Outcome
from llm_cache_mem.errors import RequestNotCacheable
from llm_cache_mem.http import request as requests
from llm_cache_mem.http.answer import Head, Recording, StoredResponse
from llm_cache_mem.http.exchange import Live, Wire
from llm_cache_mem.http.headers import AGE, MARK, SAVED, credentials_of
from llm_cache_mem.http.onlookers import sums_usage
from llm_cache_mem.http.providers import uncached_reason
from llm_cache_mem.http.view import view
from llm_cache_mem.http.zero_usage import without_usage
from llm_cache_mem.keys.request import Request
from llm_cache_mem.keys.state import refuse_stateful
from llm_cache_mem.values.entry import Entry

__all__ = ["Core", "Usage", "hit_head", "live_head"]

_KIND = "http"

Usage = Literal["zero", "keep"]
"""What hits report: no tokens, or those of the call that was made."""


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

    def cacheable(self, wire: Wire) -> Request | None:
        """The request with its key, or None to pass it on untouched.

        Raises LLMCacheError in mode ``replay``, where nothing may be passed on.
        """
        if self.engine.is_off:
            return None
        if not requests.is_generation(wire.method, wire.path, wire.content_type):
            self._pass_on(wire)
            return None
        try:
            read = requests.read(wire.base_url, wire.path, wire.query, wire.headers, wire.body())
            if not self.concerns(wire, read):
                return None
            refuse_stateful(read.state)
            return self.engine.request(read.messages, read.params, kind=_KIND, view=view)
        except RequestNotCacheable as exc:
            if self.engine.is_replay:
                raise
            self.skip(exc.skipped_as, "a call goes uncached: %s", exc)
            return None

    def tell(self, above: Above | None, wire: Wire, request: Request | None) -> None:
        """Tell the layer *above* that its call is counted here."""
        if above is None:
            return
        above.seen = request is not None
        if request is None and requests.is_generation(wire.method, wire.path, wire.content_type):
            above.answered("skipped", None)

    def chunks(
        self, above: Above | None, hit: Hit, outcome: Outcome, request: Request
    ) -> list[bytes]:
        """The body of a hit, with its usage or with zeros in place of it; a layer *above* is told
        of the hit, and decides."""
        response: StoredResponse = hit.value
        if above is not None:
            above.answered(outcome, request.key, hit)
            zero = above.zero_usage
        else:
            zero = sums_usage() if self.usage is None else self.usage == "zero"
        return without_usage(response) if zero else response.chunks

    def passed(self, above: Above, response: Any) -> Any:
        """The *response* to a call that was left to the layer *above*, which makes no other if it
        succeeded."""
        status = getattr(response, "status_code", None) or getattr(response, "status", None)
        above.is_over = status == 200
        return response

    def concerns(self, wire: Wire, asked: requests.Asked) -> bool:
        """Whether a request to the path of an endpoint is one for a model."""
        return True

    def _pass_on(self, wire: Wire) -> None:
        """Count a request as skipped whose endpoint generates or counts, but is not cached."""
        if self.engine.is_replay:
            raise RequestNotCacheable(
                f"{wire.method} {wire.path}",
                "in mode replay nothing is sent, and only generation requests are stored",
            )
        reason = uncached_reason(wire.method, wire.path)
        if reason is not None:
            self.skip(reason, "a call goes uncached: nothing caches %s", reason)

    def skip(self, reason: str, text: str, *args: object) -> None:
        """Count a call as skipped, and log why, once in a while."""
        self.engine.skip(reason, text, *args)

    def skip_event_loop(self) -> None:
        """Count a request under an event loop other than asyncio's as skipped."""
        if self.engine.is_replay:
            raise RequestNotCacheable(
                "event loop",
                "in mode replay nothing is sent, and only under asyncio can it be answered",
            )
        self.engine.skip("event loop", "a call goes uncached: its event loop is not asyncio's")

    def circumstances(self, wire: Wire) -> Hashable:
        """A digest of what outside the key can make the request fail: credentials, timeouts,
        transport."""
        facts = (wire.connection, credentials_of(wire.headers, wire.query))
        return sha256(repr(facts).encode("utf-8", "surrogatepass")).digest()

    def should_store(self, recording: Recording, at_end: bool) -> bool:
        """Whether the response is whole; if not although it was read to its end, count it as
        skipped."""
        if recording.whole or recording.status != 200:
            return recording.whole
        if at_end or recording.fault is not None:
            self.engine.skip(recording.fault or "incomplete", "an answer was not stored: %s")
        return False

    def recording(self, live: Live) -> Recording:
        """A recording of the response, still empty."""
        return Recording(live.head.status, live.headers, live.decoder)


def live_head(head: Head, coalesced: bool) -> Head:
    """The head of a response from the provider, its headers marked; an error's as it came."""
    if head.status != 200:
        return head
    ours = MARK.encode()
    headers = [pair for pair in head.headers if pair[0].lower() != ours]
    return head._replace(headers=[*headers, (ours, b"coalesced" if coalesced else b"miss")])


def hit_head(hit: Hit, mark: str) -> Head:
    """The head of a stored response: its own headers, *mark* and its age."""
    headers = [*hit.value.headers, (MARK, mark), (AGE, str(max(0, int(hit.age))))]
    headers += [(SAVED, saved)] if (saved := _saved(hit.entry)) else []
    raw = [(name.encode("latin-1"), value.encode("utf-8")) for name, value in headers]
    return Head(hit.value.status, raw, {})


def _saved(entry: Entry) -> str:
    """What a hit saved, as fields of a header; "" if nothing is known."""
    usage = entry.usage or ()
    fields: dict[str, str] = {}
    for name, count in zip(("input_tokens", "output_tokens"), usage, strict=False):
        fields[name] = str(count)
    if entry.cost_usd is not None:
        fields["usd"] = f"{entry.cost_usd:.6f}"
    if entry.seconds is not None:
        fields["seconds"] = f"{entry.seconds:.3f}"
    return ", ".join(f"{name}={value}" for name, value in fields.items())
