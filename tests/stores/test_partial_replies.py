"""A reply of a server that ends in the middle, at every byte of it, is no answer."""

import pytest
from stores.conformance import entry_of, value_of
from stores.on_loop import StoreOnLoop
from stores.proxy import CUT, HOLD, Proxy, Rule

from llm_cache_mem.errors import StoreError
from llm_cache_mem.stores import Store
from llm_cache_mem.stores.memcached import MemcachedStore
from llm_cache_mem.stores.redis import RedisStore

KEY = "1:partial:v:key"


def ending_at(position: int, end: object, lengths: list[int]) -> Rule:
    """Send what comes up to *position*, and then *end*."""

    def rule(data: bytes, sender: object) -> object:
        lengths.append(len(data))
        sender.send(data[:position])  # type: ignore[attr-defined]
        return end

    return rule


@pytest.mark.parametrize("end", ["closed", "silent"])
@pytest.mark.parametrize("kind", ["redis", "redis, loop", "memcached"])
@pytest.mark.parametrize("step", [17, pytest.param(1, marks=pytest.mark.slow)])
def test_reply_that_ends_at_any_byte_is_no_answer(
    kind: str, end: str, step: int, request: pytest.FixtureRequest
) -> None:
    kind, on_loop = kind.partition(",")[0], kind.endswith("loop")
    server = request.getfixturevalue(f"{kind}_server")
    request.getfixturevalue(f"{kind}_url")  # empties it
    with Proxy(server.port) as proxy:
        place, patience = f"{kind}://127.0.0.1:{proxy.port}", 0.03 if end == "silent" else 5
        store: Store = RedisStore(place) if kind == "redis" else MemcachedStore(place)
        hasty = type(store)(place, timeout=patience)
        if on_loop:
            store, hasty = StoreOnLoop(store), StoreOnLoop(hasty)  # type: ignore[assignment]
        store.put(KEY, entry_of("right" * 20))
        lengths: list[int] = [0]
        proxy.rule = ending_at(1 << 20, HOLD, lengths)
        assert value_of(store.get(KEY)) == "right" * 20
        positions = range(0, max(lengths), step)
        for position in positions:
            proxy.rule = ending_at(position, CUT if end == "closed" else HOLD, lengths)
            with pytest.raises(StoreError):
                hasty.get(KEY)
            proxy.rule = None
            assert value_of(store.get(KEY)) == "right" * 20
        print(f"{len(positions)} of {max(lengths)} bytes, {kind}, {end}: 0 wrong")
        store.close()
        hasty.close()
