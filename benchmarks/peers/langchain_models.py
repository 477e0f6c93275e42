"""Whole calls of a LangChain chat model that hit: what its own caches and ours leave of them."""

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from time import process_time
from typing import Any, NamedTuple

from benchmarks.harness import Variant, Work
from benchmarks.peers.contestant import OURS, Absent, versioned
from benchmarks.peers.langchain_caches import messages_of, quiet
from benchmarks.peers.tables import Cell, Column, Row, Table
from benchmarks.peers.timed import FULL, Scale, anew, compared, folder
from benchmarks.workload import SIZES, request

__all__ = ["invokes"]

SHARED = "it copies nothing: a change to an answer reaches the next caller"


class Named(NamedTuple):
    """A model under the *name* of its cache, which is of *package*, and what that *spares*."""

    name: str
    package: str
    model: Any
    spares: str = ""


def invokes(scale: Scale = FULL) -> Table:
    """invoke() of a model that hits, in memory and on SQLite."""
    columns = [Column(size, "µs") for size in SIZES]
    with folder() as path, ExitStack() as stack:
        try:
            models = _models(path, stack)
        except ImportError as exc:
            return Table(
                "langchain", columns, [], [Absent("LangChain", f"not installed: {exc.name}")]
            )
        cells = [_compared(models, size, scale) for size in SIZES]
        rows = [
            Row(
                versioned(name, package),
                [column[number] for column in cells],
                spares=spares,
                reference=name.startswith("floor"),
            )
            for number, (name, package, _, spares) in enumerate(models)
        ]
    return Table("langchain", columns, rows)


def _models(path: Path, stack: ExitStack) -> list[Named]:
    from langchain_core.caches import InMemoryCache
    from langchain_llm_cache_mem import LLMCacheMem, cached

    from benchmarks.langchain_hit import Model

    on_sqlite = LLMCacheMem(backend=path / "ours.db")
    models = [
        Named(OURS, OURS, Model(cache=LLMCacheMem())),
        Named(f"{OURS}, cached(model)", OURS, cached(Model(), LLMCacheMem())),
        Named("LangChain InMemoryCache", "langchain-core", Model(cache=InMemoryCache()), SHARED),
        Named(f"{OURS}, on SQLite", OURS, Model(cache=on_sqlite)),
    ]
    try:
        from langchain_community.cache import SQLiteCache
    except ImportError:
        pass
    else:
        quiet()
        theirs = SQLiteCache(str(path / "theirs.db"))
        stack.callback(theirs.engine.dispose)
        models.append(Named("LangChain SQLiteCache", "langchain-community", Model(cache=theirs)))
    models.append(Named("floor: no cache, the answer ready", "", Model(cache=False)))
    return models


def _compared(models: Sequence[Named], size: str, scale: Scale) -> list[Cell | None]:
    count = max(1, scale.batch[size] // 4)
    stored = [request(size, number) for number in range(count)]

    def prepared(model: Any) -> Callable[[], Sequence[Work]]:
        return lambda: [lambda m=messages_of(anew(plain)): model.invoke(m) for plain in stored]  # type: ignore[misc]

    for _, _, model, _ in models:
        for plain in stored:
            model.invoke(messages_of(plain))
    print(f"  {size}: {len(models)} models, {scale.rounds} rounds of {count} calls", flush=True)
    variants = [Variant(name, prepared(model)) for name, _, model, _ in models]
    return [*compared(variants, scale.rounds, process_time)]
