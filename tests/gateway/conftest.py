"""A gateway on a free port of loopback, in front of the loopback provider."""

import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import pytest
import uvicorn
from http_server import Provider, provider

from llm_cache_mem import LLMCache
from llm_cache_mem.gateway import Gateway, GatewayConfig
from llm_cache_mem.gateway.feed import Call, Feed

KEY = b"a key of the tests"
"""What keeps the namespaces of credentials apart."""


class Watched(Feed):
    """A feed that says when a call has ended."""

    def __init__(self) -> None:
        super().__init__()
        self.ended = threading.Event()

    def end(self, call: Call) -> None:
        super().end(call)
        self.ended.set()


class Running:
    """A gateway that listens: its base *url*, its *cache*, and the *upstream* that it asks."""

    key = KEY

    def __init__(self, url: str, cache: LLMCache, upstream: Provider, feed: Feed) -> None:
        self.url = url
        self.ended = getattr(feed, "ended", None)
        self.cache = cache
        self.upstream = upstream


@pytest.fixture
def upstream() -> Iterator[Provider]:
    with provider() as running:
        yield running


@pytest.fixture
def start(upstream: Provider) -> Iterator[Callable[..., Running]]:
    """Starts a gateway whose names ``openai``, ``anthropic``, ``gemini``, ``ollama`` and ``other``
    all lead to *upstream*; takes a cache and settings of GatewayConfig."""
    with ExitStack() as stack:

        def begin(
            cache: LLMCache | None = None, *, feed: Feed | None = None, **settings: Any
        ) -> Running:
            names = ("openai", "anthropic", "gemini", "ollama", "other")
            config = GatewayConfig(
                **{"upstreams": dict.fromkeys(names, upstream.url), "port": 0, **settings}
            )
            feed = Watched() if feed is None else feed
            cache = LLMCache(prices={}, on_event=feed.event) if cache is None else cache
            server = uvicorn.Server(
                uvicorn.Config(
                    Gateway(cache, config, key=KEY, feed=feed),
                    port=0,
                    log_level="warning",
                    access_log=False,
                    ws="none",
                    server_header=False,
                    date_header=False,
                )
            )
            listening = threading.Event()
            startup = server.startup

            async def started(sockets: Any = None) -> None:
                await startup(sockets)
                listening.set()

            server.startup = started  # type: ignore[method-assign]
            thread = threading.Thread(target=server.run, daemon=True)
            thread.start()
            assert listening.wait(30)

            def stop() -> None:
                server.should_exit = True
                thread.join(30)
                assert not thread.is_alive()

            stack.callback(stop)
            port = server.servers[0].sockets[0].getsockname()[1]
            return Running(f"http://127.0.0.1:{port}", cache, upstream, feed)

        yield begin
