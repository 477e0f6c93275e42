"""GPTCache as ``cache.init()`` sets it up, an exact map by the last message, under its
``adapt``."""

from typing import Any

from gptcache import Cache
from gptcache.adapter.adapter import adapt
from gptcache.manager import get_data_manager

from benchmarks.probes.contestants.functions import FunctionPeer, completion

__all__ = ["GPTCache"]


class GPTCache(FunctionPeer):
    name = "GPTCache"
    configured = (
        "`cache.init(data_manager=get_data_manager(path))`: its default key and exact map;"
        " `flush()` after each answer"
    )
    shared = "file"
    bounded = True
    packages = ("gptcache",)

    def prepare(self) -> None:
        self.cache = Cache()
        size = {} if self.max_size is None else {"max_size": self.max_size}
        self.cache.init(
            data_manager=get_data_manager(data_path=str(self.folder / "data_map.txt"), **size)
        )

    def ask(self, **request: Any) -> Any:
        def store(answer: Any, update: Any, *args: Any, **kwargs: Any) -> Any:
            update(answer["choices"][0]["message"]["content"])
            return answer

        return adapt(
            self.call, lambda text: completion([text]), store, cache_obj=self.cache, **request
        )

    def replace(self, texts: list[str], **request: Any) -> None:
        question = request["messages"][-1]["content"]
        self.cache.data_manager.save(question, texts[0], question)

    def settle(self) -> None:
        self.cache.flush()

    def close(self) -> None:
        self.cache.data_manager.close()
