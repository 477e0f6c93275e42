"""What a contestant is: one library as its users would use it, with nothing of its work done for it
beforehand.

Timed is what happens between a program that holds a request and one that holds an answer: building
the key, looking, making a value. Untimed is only what a program of that library has in its hands
anyway: a request as dicts for most, as message objects for LangChain.
"""

import asyncio
import importlib.metadata
import json
import traceback
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks.harness import Variant, Work
from benchmarks.workload import VALUE, request

__all__ = [
    "LOOP",
    "OURS",
    "Absent",
    "Contestant",
    "Place",
    "batch",
    "finished",
    "isolates",
    "opened",
    "variant",
    "versioned",
]

OURS = "llm-cache-mem"
LOOP = (
    asyncio.new_event_loop()
)  # of all that is asynchronous; its batches run in it one after the other


class Place(NamedTuple):
    """Room for *entries*; a *folder* on a disk and a Redis at *port*, where a contestant needs
    them."""

    entries: int
    folder: Path
    port: int = 0


class Absent(NamedTuple):
    """A contestant that did not run, and the *reason* in its own words."""

    name: str
    reason: str


class Contestant:
    """One library. *name* and *package* say which; *key* who builds the key and how; *value* what
    becomes of an answer.

    *spares* is what it leaves out that llm-cache-mem does: where it is faster, that is why.
      *reference* marks a floor, which is no cache.
    """

    name = ""
    package = ""
    key = ""
    value = ""
    spares = ""
    asynchronous = False
    reference = False

    def __init__(self, place: Place) -> None:
        raise NotImplementedError

    def asked(self, request: dict[str, Any]) -> Any:
        """*request*, which nobody else holds, in the form in which a program of this library has it
        in its hands. Untimed."""
        return request

    def answered(self, value: dict[str, Any]) -> Any:
        """A new answer that says *value*, as the model's client would return it. Untimed."""
        return json.loads(json.dumps(value))

    def get(self, asked: Any) -> Any:
        """The answer to *asked*, None if there is none; a coroutine where this is asynchronous.
        Timed."""
        raise NotImplementedError

    def put(self, asked: Any, answer: Any) -> Any:
        """Keep *answer*. Timed."""
        raise NotImplementedError

    def miss(self, asked: Any, answer: Any) -> Any:
        """Look for *asked* in vain, then keep *answer*. Timed."""
        self.get(asked)
        self.put(asked, answer)

    def close(self) -> None:
        """Let go of files and connections."""

    @classmethod
    def versioned(cls) -> str:
        """The name with the version behind it."""
        return versioned(cls.name, cls.package)

    @staticmethod
    def alter(answer: Any) -> None:
        """Change *answer* as a careless caller would, deep inside."""
        answer["content"][0]["text"] = "changed by a caller"


def versioned(name: str, package: str) -> str:
    """*name* with the version of *package* in it or behind it; alone, if that is "" or not
    installed."""
    with suppress(importlib.metadata.PackageNotFoundError, ValueError):  # the latter for ""
        numbered = f"{package} {importlib.metadata.version(package)}"
        return name.replace(package, numbered, 1) if package in name else f"{name} ({numbered})"
    return name


def finished(contestant: Contestant, result: Any) -> Any:
    """*result* itself, or what comes of it where it is a coroutine."""
    return LOOP.run_until_complete(result) if contestant.asynchronous else result


def batch(contestant: Contestant, calls: Sequence[Work]) -> Sequence[Work]:
    """The works that make *calls*: themselves, or for an asynchronous contestant a single one that
    awaits each in turn."""
    if not contestant.asynchronous:
        return calls

    async def in_turn() -> None:
        for call in calls:
            await call()  # type: ignore[misc]

    return [lambda: LOOP.run_until_complete(in_turn())]


def variant(contestant: Contestant, prepare: Callable[[], Sequence[Work]], count: int) -> Variant:
    """*contestant* for the harness; *prepare* makes *count* calls."""
    return Variant(
        contestant.name,
        lambda: batch(contestant, prepare()),
        count if contestant.asynchronous else 1,
    )


def opened(
    kinds: Iterable[type[Contestant]], place: Place
) -> tuple[list[Contestant], list[Absent]]:
    """Those of *kinds* that work, and those that do not. What does not answer would look very fast:
    each is asked, its answer compared."""
    working: list[Contestant] = []
    absent: list[Absent] = []
    for number, kind in enumerate(kinds):
        try:
            folder = place.folder / str(number)
            folder.mkdir(parents=True)
            contestant = kind(place._replace(folder=folder))
            if not contestant.reference:
                _check(contestant)
            working.append(contestant)
        except ImportError as exc:
            absent.append(
                Absent(kind.name, f"not installed: {exc.name}" if exc.name else "not installed")
            )
        except Exception as exc:  # noqa: BLE001 - whatever a peer fails with is said, not dropped
            said = (
                str(exc).strip().partition("\n")[0].replace(str(folder), "…")
                or traceback.extract_tb(exc.__traceback__)[-1].line
            )
            absent.append(Absent(kind.versioned(), f"does not run: {type(exc).__name__}: {said}"))
    return working, absent


def _check(contestant: Contestant) -> None:
    for size in "SML":
        plain = request(size, 999_999_999)
        asked = contestant.asked(plain)
        if finished(contestant, contestant.get(asked)) is not None:
            raise RuntimeError(f"answers a request of size {size} that it has never seen")
        finished(contestant, contestant.put(contestant.asked(plain), contestant.answered(VALUE)))
        again = finished(
            contestant, contestant.get(contestant.asked(json.loads(json.dumps(plain))))
        )
        if again != contestant.answered(VALUE):
            raise RuntimeError(f"does not give back what it was given for a request of size {size}")


def isolates(contestant: Contestant) -> str:
    """Whose the answers are: "yes" if what a caller changes reaches nobody else, "hits only" if
    that holds for hits, "no" for neither."""
    asked, answer = contestant.asked(request("S", 999_999_998)), contestant.answered(VALUE)
    finished(contestant, contestant.put(asked, answer))
    contestant.alter(answer)
    kept = finished(contestant, contestant.get(asked)) == contestant.answered(VALUE)
    finished(contestant, contestant.put(asked, contestant.answered(VALUE)))
    contestant.alter(finished(contestant, contestant.get(asked)))
    fresh = finished(contestant, contestant.get(asked)) == contestant.answered(VALUE)
    return {
        (True, True): "yes",
        (False, True): "hits only",
        (True, False): "no",
        (False, False): "no",
    }[kept, fresh]
