"""What is remembered of prefixes and conversations, and why one was not read from the provider's
cache when it should have been."""

from collections import OrderedDict
from itertools import islice
from typing import Final, NamedTuple

from llm_cache_mem.accounting.provider import PaidCall, ProviderSums
from llm_cache_mem.prompt_cache.fingerprint import Fingerprint
from llm_cache_mem.prompt_cache.rules import Rules
from llm_cache_mem.responses.usage import Usage

__all__ = ["Call", "History", "PrefixRecord", "Verdict"]

_COMPARED: Final = 16  # the latest prefixes of a model, with which a new one is compared
_ALIKE: Final = 0.5  # from this likeness on, a new prefix is a changed one
_RECENT: Final = 0.3  # what the latest call counts in the recent share
_CHANGES: Final = {
    "tools_changed": "tools",
    "system_changed": "system",
    "messages_changed": "messages",
    "input_changed": "input",
}
"""What the providers' own diagnostics call it, and where that is."""


class Call(NamedTuple):
    """One call that was answered. Times are Unix seconds; *diagnosis* is the provider's own word
    for why it missed."""

    shape: Fingerprint
    usage: Usage
    paid: PaidCall
    rules: Rules
    began: float
    ended: float
    diagnosis: str | None = None

    @property
    def share(self) -> float:
        return (
            self.usage.cache_read_tokens / self.usage.input_tokens
            if self.usage.input_tokens
            else 0.0
        )

    @property
    def is_automatic(self) -> bool:
        """Whether the provider writes by itself and does not say so."""
        return not self.rules.explicit

    @property
    def wants_cache(self) -> bool:
        used = self.usage.cache_read_tokens or self.usage.cache_write_tokens
        return bool(used) or self.shape.marked or self.rules.provider == "openai"


class Verdict(NamedTuple):
    """Why a call read less than the *expected* tokens: changed (at *path*), expired (*idle* seconds
    unused), too short or unknown."""

    reason: str
    path: str | None
    expected: int
    idle: float
    before: float
    """The recent share of the prefix, or of the one that it was changed from."""


class PrefixRecord:
    """The running sums of one prefix, and what the provider should have of it."""

    def __init__(self, call: Call) -> None:
        bare = dict.fromkeys(
            call.shape.pieces, ""
        )  # of an earlier one only the hashes are asked for, not where they were
        self.shape = call.shape._replace(pieces=bare, parts=call.shape.parts[: call.shape.stable])
        self.sums = ProviderSums()
        self.recent: float | None = None
        self.expected: int | None = None
        self.lifetime = call.rules.lifetime(
            call.shape.ttl if call.shape.ttl in call.rules.lifetimes else None
        )
        self.last_used = call.began
        self.ready_at = call.ended
        self.shared = call.shape.marked_stable or call.is_automatic
        self.alerted: set[tuple[str, str]] = set()

    def add(self, call: Call, *, continues: bool) -> None:
        used = call.usage
        self.sums.add_call(call.paid)
        self.recent = (
            call.share
            if self.recent is None
            else (1 - _RECENT) * self.recent + _RECENT * call.share
        )
        self.shared = self.shared or (
            used.cache_read_tokens > 0 and not continues and self.sums.calls > 1
        )
        cached = used.cache_read_tokens + used.cache_write_tokens
        guess = int(call.shape.stable_share * used.input_tokens)
        if cached or call.is_automatic:
            stands = min(
                cached or guess, guess
            )  # of what was written only the stable part serves other conversations
            self.expected = stands if self.expected is None else min(self.expected, stands)
            self.last_used = max(self.last_used, call.began)
            if not used.cache_read_tokens:
                self.ready_at = max(self.ready_at, call.ended)


class _Talk(NamedTuple):
    """A conversation as it was when it was last sent."""

    messages: tuple[bytes, ...]
    cached: int
    last_used: float


class History:
    """Bounded memory of prefixes and conversations; the least recently used go first. Not
    thread-safe: its owner has a lock."""

    def __init__(self, max_prefixes: int, max_conversations: int, drop: float) -> None:
        self.prefixes: OrderedDict[str, PrefixRecord] = OrderedDict()
        self._talks: OrderedDict[tuple[str, bytes], _Talk] = OrderedDict()
        self._most, self._most_talks, self._drop = max_prefixes, max_conversations, drop

    def add(self, call: Call) -> Verdict | None:
        """Take in *call*; what is wrong with it, if anything is that has not been reported yet."""
        digest, turns = call.shape.digest, call.shape.messages
        known = self.prefixes.get(digest)
        key = (digest, turns[0].digest) if turns else None
        talk = self._talks.get(key) if key is not None else None
        verdict, source = self._judge(call, known, talk)
        prefix = known
        if prefix is None:
            prefix = self.prefixes[digest] = PrefixRecord(call)
            prefix.alerted |= source.alerted if source is not None else set()
        prefix.add(call, continues=talk is not None)
        self.prefixes.move_to_end(digest)
        if len(self.prefixes) > self._most:
            self.prefixes.popitem(last=False)
        if key is not None:
            self._remember(key, call)
        return self._news(prefix, call, verdict)

    def _remember(self, key: tuple[str, bytes], call: Call) -> None:
        used, step = call.usage, call.rules.step_tokens
        cached = (
            used.input_tokens // step * step
            if call.is_automatic
            else used.cache_read_tokens + used.cache_write_tokens
        )
        self._talks[key] = _Talk(
            tuple(part.digest for part in call.shape.messages), cached, call.began
        )
        self._talks.move_to_end(key)
        if len(self._talks) > self._most_talks:
            self._talks.popitem(last=False)

    @staticmethod
    def _news(prefix: PrefixRecord, call: Call, verdict: Verdict | None) -> Verdict | None:
        if verdict is None:
            if call.usage.cache_read_tokens:
                prefix.alerted.clear()
            return None
        said = (verdict.reason, (verdict.path or "").partition(",")[0])
        if said in prefix.alerted:
            return None
        prefix.alerted.add(said)
        return verdict

    # -- Why

    def _judge(
        self, call: Call, known: PrefixRecord | None, talk: _Talk | None
    ) -> tuple[Verdict | None, PrefixRecord | None]:
        """What is wrong with *call*, if anything is, and the prefix that it was compared with."""
        if not call.wants_cache:
            return None, known
        used = call.usage
        if used.input_tokens < call.rules.minimum_tokens:
            silent = (
                call.shape.marked and not used.cache_read_tokens and not used.cache_write_tokens
            )
            return (
                Verdict("too short", None, call.rules.minimum_tokens, 0.0, 0.0) if silent else None
            ), known
        before = known if known is not None else self._most_alike(call)
        if before is None or call.began < before.ready_at:  # nothing was there yet
            return None, before
        expected = before.expected or 0 if before.shared else 0
        last_used, path = before.last_used, None
        if (
            talk is not None
            and known is not None
            and len(call.shape.messages) >= len(talk.messages)
        ):  # else it went back
            expected, last_used = max(expected, talk.cached), talk.last_used
            path = self._rewritten(call, talk)
        if expected < call.rules.minimum_tokens or used.cache_read_tokens >= self._drop * expected:
            return None, before
        idle, recent = call.began - last_used, before.recent or 0.0
        if known is None:
            path = call.shape.first_difference(before.shape)
            return Verdict(
                "expired" if idle >= before.lifetime else "changed", path, expected, idle, recent
            ), before
        return Verdict(
            *self._reason(call, path, idle >= before.lifetime), expected, idle, recent
        ), before

    @staticmethod
    def _reason(call: Call, path: str | None, expired: bool) -> tuple[str, str | None]:
        if expired:
            return "expired", None
        if path is not None:
            return "changed", path
        where = _CHANGES.get(call.diagnosis or "")
        return ("unknown", None) if where is None else ("changed", where)

    def _most_alike(self, call: Call) -> PrefixRecord | None:
        same_model = (
            prefix
            for prefix in reversed(self.prefixes.values())
            if prefix.shape.model == call.shape.model
        )
        likenesses = (
            (call.shape.likeness(prefix.shape), prefix) for prefix in islice(same_model, _COMPARED)
        )
        likeness, prefix = max(likenesses, key=lambda pair: pair[0], default=(0.0, None))
        return prefix if likeness >= _ALIKE else None

    @staticmethod
    def _rewritten(call: Call, talk: _Talk) -> str | None:
        """Where the conversation is no longer what it was; None if it only went on."""
        pairs = zip(call.shape.messages, talk.messages, strict=False)
        return next((part.path for part, digest in pairs if part.digest != digest), None)
