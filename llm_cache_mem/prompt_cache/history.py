"""History of prefixes and conversations, and why a call read less of one than expected."""

from collections import OrderedDict
from itertools import islice
from typing import Final, NamedTuple

from llm_cache_mem.accounting.provider import PaidCall, ProviderSums
from llm_cache_mem.prompt_cache.fingerprint import Fingerprint
from llm_cache_mem.prompt_cache.rules import Rules
from llm_cache_mem.responses.usage import Usage

__all__ = ["Call", "History", "PrefixRecord", "Shortfall"]

_COMPARED: Final = 16  # the latest prefixes of a model, with which a new one is compared
_SIMILAR: Final = 0.5  # from this similarity on, a new prefix counts as a changed one
_RECENT: Final = 0.3  # weight of the latest call in the recent share
_CHANGES: Final = {
    "tools_changed": "tools",
    "system_changed": "system",
    "messages_changed": "messages",
    "input_changed": "input",
}
"""The providers' own names for changes, and the part of the request that each means."""


class Call(NamedTuple):
    """One call that was answered. Times are Unix seconds; *diagnosis* is the provider's own reason
    for a miss."""

    fingerprint: Fingerprint
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
        """Whether the provider writes by itself and does not report it."""
        return not self.rules.explicit

    @property
    def wants_cache(self) -> bool:
        used = self.usage.cache_read_tokens or self.usage.cache_write_tokens
        return bool(used) or self.fingerprint.marked or self.rules.provider == "openai"


class Shortfall(NamedTuple):
    """Why a call read less than the *expected* tokens: changed (at *path*), expired (*idle* seconds
    unused), too short or unknown."""

    reason: str
    path: str | None
    expected: int
    idle: float
    before: float
    """The recent share of the prefix, or of the one that it was changed from."""


class PrefixRecord:
    """The running sums of one prefix, and what the provider should have of it in its cache."""

    def __init__(self, call: Call) -> None:
        # earlier prefixes are compared by hashes; the paths of the pieces are not needed
        bare = dict.fromkeys(call.fingerprint.pieces, "")
        self.fingerprint = call.fingerprint._replace(
            pieces=bare, parts=call.fingerprint.parts[: call.fingerprint.stable]
        )
        self.sums = ProviderSums()
        self.recent: float | None = None
        self.expected: int | None = None
        self.lifetime = call.rules.lifetime(
            call.fingerprint.ttl if call.fingerprint.ttl in call.rules.lifetimes else None
        )
        self.last_used = call.began
        self.ready_at = call.ended
        self.shared = call.fingerprint.marked_stable or call.is_automatic
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
        guess = int(call.fingerprint.stable_share * used.input_tokens)
        if cached or call.is_automatic:
            # only the stable part of what was written serves other conversations
            stable = min(cached or guess, guess)
            self.expected = stable if self.expected is None else min(self.expected, stable)
            self.last_used = max(self.last_used, call.began)
            if not used.cache_read_tokens:
                self.ready_at = max(self.ready_at, call.ended)


class _Conversation(NamedTuple):
    """A conversation when it was last sent."""

    messages: tuple[bytes, ...]
    cached: int
    last_used: float


class History:
    """A bounded history of prefixes and conversations; the least recently used are forgotten first.
    Not thread-safe."""

    def __init__(self, max_prefixes: int, max_conversations: int, drop: float) -> None:
        self.prefixes: OrderedDict[str, PrefixRecord] = OrderedDict()
        self._conversations: OrderedDict[tuple[str, bytes], _Conversation] = OrderedDict()
        self._most, self._most_conversations, self._drop = max_prefixes, max_conversations, drop

    def add(self, call: Call) -> Shortfall | None:
        """Add *call*; its shortfall, if it has one that has not been reported yet."""
        digest, turns = call.fingerprint.digest, call.fingerprint.messages
        known = self.prefixes.get(digest)
        key = (digest, turns[0].digest) if turns else None
        conversation = self._conversations.get(key) if key is not None else None
        shortfall, source = self._shortfall_of(call, known, conversation)
        prefix = known
        if prefix is None:
            prefix = self.prefixes[digest] = PrefixRecord(call)
            prefix.alerted |= source.alerted if source is not None else set()
        prefix.add(call, continues=conversation is not None)
        self.prefixes.move_to_end(digest)
        if len(self.prefixes) > self._most:
            self.prefixes.popitem(last=False)
        if key is not None:
            self._remember(key, call)
        return self._if_new(prefix, call, shortfall)

    def _remember(self, key: tuple[str, bytes], call: Call) -> None:
        used, step = call.usage, call.rules.step_tokens
        cached = (
            used.input_tokens // step * step
            if call.is_automatic
            else used.cache_read_tokens + used.cache_write_tokens
        )
        self._conversations[key] = _Conversation(
            tuple(part.digest for part in call.fingerprint.messages), cached, call.began
        )
        self._conversations.move_to_end(key)
        if len(self._conversations) > self._most_conversations:
            self._conversations.popitem(last=False)

    @staticmethod
    def _if_new(prefix: PrefixRecord, call: Call, shortfall: Shortfall | None) -> Shortfall | None:
        if shortfall is None:
            if call.usage.cache_read_tokens:
                prefix.alerted.clear()
            return None
        alert = (shortfall.reason, (shortfall.path or "").partition(",")[0])
        if alert in prefix.alerted:
            return None
        prefix.alerted.add(alert)
        return shortfall

    # -- Inside

    def _shortfall_of(
        self, call: Call, known: PrefixRecord | None, conversation: _Conversation | None
    ) -> tuple[Shortfall | None, PrefixRecord | None]:
        """The shortfall of *call*, if it has one, and the prefix that it was compared with."""
        if not call.wants_cache:
            return None, known
        used = call.usage
        if used.input_tokens < call.rules.minimum_tokens:
            silent = (
                call.fingerprint.marked
                and not used.cache_read_tokens
                and not used.cache_write_tokens
            )
            return (
                Shortfall("too short", None, call.rules.minimum_tokens, 0.0, 0.0)
                if silent
                else None
            ), known
        before = known if known is not None else self._most_similar(call)
        if before is None or call.began < before.ready_at:  # nothing was there yet
            return None, before
        expected = before.expected or 0 if before.shared else 0
        last_used, path = before.last_used, None
        if (
            conversation is not None
            and known is not None
            and len(call.fingerprint.messages) >= len(conversation.messages)
        ):  # otherwise it went back to an earlier state
            expected, last_used = max(expected, conversation.cached), conversation.last_used
            path = self._rewritten(call, conversation)
        if expected < call.rules.minimum_tokens or used.cache_read_tokens >= self._drop * expected:
            return None, before
        idle, recent = call.began - last_used, before.recent or 0.0
        if known is None:
            path = call.fingerprint.first_difference(before.fingerprint)
            return Shortfall(
                "expired" if idle >= before.lifetime else "changed", path, expected, idle, recent
            ), before
        return Shortfall(
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

    def _most_similar(self, call: Call) -> PrefixRecord | None:
        same_model = (
            prefix
            for prefix in reversed(self.prefixes.values())
            if prefix.fingerprint.model == call.fingerprint.model
        )
        similarities = (
            (call.fingerprint.similarity(prefix.fingerprint), prefix)
            for prefix in islice(same_model, _COMPARED)
        )
        similarity, prefix = max(similarities, key=lambda pair: pair[0], default=(0.0, None))
        return prefix if similarity >= _SIMILAR else None

    @staticmethod
    def _rewritten(call: Call, conversation: _Conversation) -> str | None:
        """The path at which the conversation differs from before; None if it only continued."""
        pairs = zip(call.fingerprint.messages, conversation.messages, strict=False)
        return next((part.path for part, digest in pairs if part.digest != digest), None)
