"""The installation that is on, where the patched methods look for it at each request."""

import os
from typing import Final

from llm_cache_mem.cache import LLMCache
from llm_cache_mem.http.core import Core
from llm_cache_mem.http.exchange import Wire
from llm_cache_mem.http.providers import Hosts, server_of, uncached_reason
from llm_cache_mem.http.request import Asked, is_endpoint, is_local_endpoint

__all__ = ["GATEWAY_VARIABLE", "Installation", "activate", "active"]

GATEWAY_VARIABLE: Final = "LLM_CACHE_MEM_GATEWAY"
"""Names the host and port of the gateway that ``llm-cache-mem run --gateway`` has started."""


class Installation(Core):
    """A cache that is installed, and which requests it concerns.

    *hosts*: servers that the user names. *mocks*: whether transports that tests have mocked count.
    *url*: what the cache was opened from by ``install`` itself; None if it was handed in.
    *above_answers*: see Layers.
    """

    def __init__(
        self,
        cache: LLMCache,
        hosts: Hosts,
        *,
        mocks: bool = False,
        url: str | None = None,
        above_answers: bool = False,
    ) -> None:
        super().__init__(cache)
        self.hosts = hosts
        self.mocks = mocks
        self.url = url
        self.above_answers = above_answers

    def takes(self, method: str, host: str, port: int | None, path: str) -> bool:
        """Whether a request is for a model, as far as its address tells. *path* may have a
        query."""
        server = server_of(host)
        if self.hosts and (host if port is None else f"{host}:{port}") in self.hosts:
            return _generates(method, path.partition("?")[0])
        if server is None:
            return False
        if server == "loopback" and f"{host}:{port}" == os.environ.get(GATEWAY_VARIABLE):
            return False  # the gateway answers from a cache of its own
        if server == "provider":
            return _generates(method, path.partition("?")[0]) or self.engine.is_replay
        return method == "POST" and is_local_endpoint(path.partition("?")[0])

    def concerns(self, wire: Wire, asked: Asked) -> bool:
        """A server on this machine is a model's if the body says so too: it names a model."""
        if server_of(wire.host) != "loopback":
            return True
        if self.hosts and wire.base_url.partition("://")[2] in self.hosts:
            return True
        return asked.messages is not None and isinstance(asked.params.get("model"), str)


def _generates(method: str, path: str) -> bool:
    return method == "POST" and (is_endpoint(path) or uncached_reason(method, path) is not None)


_active: Installation | None = None


def active() -> Installation | None:
    """The installation that is on in this process; None if there is none."""
    return _active


def activate(installation: Installation | None) -> None:
    """Make *installation* the one that is on."""
    global _active
    before, _active = _active, installation
    if before is not None:
        before.engine.layers.active = before.engine.layers.above_answers = False
    if installation is not None:
        installation.engine.layers.active = True
        installation.engine.layers.above_answers = installation.above_answers
