"""IngestionPipeline.run(num_workers=2): the options of its caller reach the workers.

The pool pickles the transformations in a thread of its own, which has none of the options. So the
caches in them are made to carry those before the pool starts.
"""

import functools
import io
import pickle
from typing import Any

from llama_index.core.ingestion.pipeline import IngestionPipeline

from llm_cache_mem import LLMCache
from llm_cache_mem.engine.recipe import for_workers
from llm_cache_mem.options import NOTHING_ASKED, current

__all__ = ["carry_options"]


@functools.cache
def carry_options() -> None:
    """From now on, let pipelines carry the options of their callers."""
    for name in ("run", "arun"):
        setattr(IngestionPipeline, name, _carrying(IngestionPipeline.__dict__[name]))


def _carrying(original: Any) -> Any:
    @functools.wraps(original)
    def run(self: Any, *args: Any, **kwargs: Any) -> Any:
        if (kwargs.get("num_workers") or 0) > 1 and current() is not NOTHING_ASKED:
            carried = [_carried(transformation) for transformation in self.transformations]
            self = self.model_copy(update={"transformations": carried})
        return original.__get__(self, type(self))(*args, **kwargs)

    return run


def _carried(transformation: Any) -> Any:
    """A copy of *transformation*, as it is pickled for the workers anyway, the caches in which
    carry the options."""
    caches: list[LLMCache] = []

    class Pickler(pickle.Pickler):
        def persistent_id(self, obj: Any) -> int | None:
            if isinstance(obj, LLMCache):
                caches.append(for_workers(obj))
                return len(caches) - 1
            return None

    class Unpickler(pickle.Unpickler):
        def persistent_load(self, number: int) -> LLMCache:
            return caches[number]

    pickled = io.BytesIO()
    try:
        Pickler(pickled).dump(transformation)
        pickled.seek(0)
        return Unpickler(pickled).load()  # of this very process
    except Exception:  # noqa: BLE001  # the pool will say so
        return transformation
