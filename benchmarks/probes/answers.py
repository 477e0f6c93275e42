"""Probes of the answer: what must not be kept, and what a caller may do with what it got."""

from collections.abc import Callable
from typing import Any

from benchmarks.probes.contestant import Bench, Cannot, Contestant
from benchmarks.probes.keys import request, text_of, user
from benchmarks.probes.provider import Reply
from benchmarks.probes.registry import probe

__all__: list[str] = []

GROUP = "The answer"
FUNCTIONS = "a cache of functions keeps what they return: the caller has to check"


def _then_whole(bench: Bench, first: Reply) -> Contestant:
    """A contestant whose provider answers *first*, and from then on ``whole n``."""
    if bench.contestant.general:
        raise Cannot(FUNCTIONS)
    bench.provider.script = lambda number, body: (
        first if number == 1 else Reply((f"whole {number}",))
    )
    return bench.open()


def _not_kept(bench: Bench, first: Reply) -> str | None:
    peer = _then_whole(bench, first)
    for attempt in range(2):
        try:
            peer.settle()
            text = text_of(peer, request())
        except Cannot:
            raise
        except Exception:  # noqa: BLE001 - its way to say that the answer is of no use
            text = None
        if attempt and not str(text).startswith("whole"):
            return "it is replayed to the next caller"
    return None


@probe(
    GROUP,
    "an answer cut off at the token limit is not replayed",
    "LightRAG PR 3446, LiteLLM #11145; peers, finding 3",
)
def truncated(bench: Bench) -> str | None:
    return _not_kept(bench, Reply(("Half an ans",), finish="length"))


@probe(
    GROUP, "an answer stopped by the content filter is not replayed", "LiteLLM; peers, finding 3"
)
def content_filter(bench: Bench) -> str | None:
    return _not_kept(bench, Reply(("I would",), finish="content_filter"))


@probe(GROUP, "a refusal is not replayed", "peers, finding 3 and section 5")
def refusal(bench: Bench) -> str | None:
    return _not_kept(bench, Reply(("",), refusal="I cannot help with that."))


@probe(GROUP, "an empty answer is not replayed", "LiteLLM PR 40294; peers, section 5")
def empty(bench: Bench) -> str | None:
    return _not_kept(bench, Reply(("",)))


@probe(GROUP, "an error is not kept", "promptfoo PR 706; peers, table")
def errors(bench: Bench) -> str | None:
    bench.provider.script = lambda number, body: (
        Reply((), status=500) if number == 1 else Reply((f"whole {number}",))
    )
    peer = bench.open()
    try:
        peer.ask(**request())
    except Cannot:
        raise
    except Exception:  # noqa: BLE001,S110 - the provider's error, in whatever form
        pass
    try:
        text = text_of(peer, request())
    except Exception as exc:  # noqa: BLE001
        return f"the error is replayed ({type(exc).__name__})"
    return None if str(text).startswith("whole") else "the error is replayed"


def _spoilt(bench: Bench, nth: int) -> str | None:
    peer = bench.open()
    answers = [peer.ask(**request()) for _ in range(nth)]
    whole = peer.text(answers[0])
    if nth > 1 and peer.text(answers[-1]) != whole:
        raise Cannot("does not answer from its cache")
    peer.spoil(answers[-1])
    text = peer.text(peer.ask(**request()))
    if text == whole:
        return None
    if "spoilt" in str(text):
        return "the next caller gets what this one made of it"
    raise Cannot("does not answer from its cache")


@probe(
    GROUP,
    "changing the first answer does not change the cache",
    "DSPy #10373, LangChain; peers, finding 5",
)
def spoilt_miss(bench: Bench) -> str | None:
    return _spoilt(bench, 1)


@probe(
    GROUP,
    "changing a hit does not change the cache",
    "LangChain, AutoGen, LiteLLM, GPTCache; reliability 6",
)
def spoilt_hit(bench: Bench) -> str | None:
    return _spoilt(bench, 2)


@probe(
    GROUP,
    "a shorter list of answers replaces a longer one whole",
    "LangChain SQLiteCache; peers, finding 5",
)
def fewer_choices(bench: Bench) -> str | None:
    peer = bench.open()
    asked = request()
    peer.replace(["old 1", "old 2", "old 3"], **asked)
    peer.replace(["new"], **asked)
    texts = peer.all_texts(**asked)
    if not any(text.startswith(("old", "new")) for text in texts):
        raise Cannot("does not take an answer by hand")
    return None if texts == ["new"] else f"the answer is now {', '.join(sorted(texts))}"


def _streamed(bench: Bench, read: Callable[[Any], str]) -> tuple[Contestant, str]:
    peer = bench.open()
    bench.provider.script = lambda number, body: Reply(
        (f"one two three four five six seven {number}",)
    )
    text = read(peer.stream(**request(messages=[user("Count.")])))
    peer.settle()
    return peer, text


def _whole(pieces: Any) -> str:
    return "".join(pieces)


def _again(peer: Contestant) -> str:
    try:
        return _whole(peer.stream(**request(messages=[user("Count.")])))
    except Cannot:
        raise
    except Exception as exc:  # noqa: BLE001
        return f"{type(exc).__name__}"


@probe(
    GROUP,
    "a stream is answered from the cache the second time, whole",
    "LangChain #23701, #13119; LiteLLM #24579",
)
def stream_hits(bench: Bench) -> str | None:
    peer, first = _streamed(bench, _whole)
    text = _again(peer)
    if text == first:
        return None
    return (
        "streams go past the cache"
        if text.startswith("one two")
        else f"the second reader gets {text!r}"
    )


@probe(
    GROUP, "a stream that its reader left is not replayed in half", "cashews #246; reliability 1.4"
)
def stream_left(bench: Bench) -> str | None:
    def first_word(pieces: Any) -> str:
        word = next(iter(pieces))
        if hasattr(pieces, "close"):
            pieces.close()
        return str(word)

    peer, _ = _streamed(bench, first_word)
    text = _again(peer)
    return (
        None
        if text.startswith("one two three four five six seven")
        else f"the next reader gets {text!r}"
    )


@probe(GROUP, "a stream that broke off is not replayed", "gonka #1722; reliability 1.4")
def stream_cut(bench: Bench) -> str | None:
    peer = bench.open()
    words = "one two three four five six seven"
    bench.provider.script = lambda number, body: Reply((f"{words} {number}",), cut=number == 1)
    try:
        _whole(peer.stream(**request(messages=[user("Count.")])))
    except Cannot:
        raise
    except Exception:  # noqa: BLE001,S110 - the cut itself
        pass
    peer.settle()
    text = _again(peer)
    return None if text.startswith(words) else f"the next reader gets {text!r}"
