"""Run a gateway: one process or several, until it is told to stop."""

import gc
import logging
import os
import socket
import sys
from collections.abc import Callable
from contextlib import suppress
from tempfile import TemporaryDirectory
from typing import Any, Final

from llm_cache_mem.cache import LLMCache
from llm_cache_mem.gateway.app import Gateway, Viewer
from llm_cache_mem.gateway.config import CONFIG_VARIABLE, GatewayConfig
from llm_cache_mem.gateway.credentials import KEY_VARIABLE, gateway_key
from llm_cache_mem.gateway.feed import Feed
from llm_cache_mem.gateway.metrics import DIRECTORY
from llm_cache_mem.keys.digest import DEFAULT_IGNORE
from llm_cache_mem.stores.urls import locate

try:
    import uvicorn
    from uvicorn.supervisors import Multiprocess
except ModuleNotFoundError as exc:
    if exc.name != "uvicorn":
        raise
    raise ImportError(
        "the gateway needs uvicorn: pip install 'llm-cache-mem[gateway]'", name="uvicorn"
    ) from None

try:
    import resource
except ModuleNotFoundError:  # on Windows
    resource = None  # type: ignore[assignment]

__all__ = ["application", "open_cache", "serve", "viewer"]

_ACCESS_LOG: Final = "LLM_CACHE_MEM_GATEWAY_ACCESS_LOG"
_SHUTDOWN_SECONDS: Final = 30
_OBJECTS_BETWEEN_COLLECTIONS: Final = 10_000


def open_cache(config: GatewayConfig, feed: Feed | None = None) -> LLMCache:
    """The cache that *config* describes, whose calls *feed* shows. ValueError where its workers
    could not share it."""
    scheme, _ = locate(config.backend)
    if config.workers > 1 and not scheme.in_file and not scheme.on_server:
        raise ValueError(
            f"{config.workers} workers need a store that they share, such as"
            " --backend sqlite://./cache.db"
        )
    bound: dict[str, Any] = {"max_size": config.max_size} if scheme.bounded else {}
    return LLMCache(
        backend=config.backend,
        ttl_seconds=config.ttl_seconds,
        mode=config.mode,
        ignore=DEFAULT_IGNORE.union(config.ignore),
        coalesce="fleet" if config.workers > 1 else True,
        keep_requests=config.keep_requests,
        on_event=None if feed is None else feed.event,
        **bound,
    )


def application(findings: Callable[[str], list[dict[str, str]]] | None = None) -> Gateway:
    """The application of a worker process, by the settings in its environment.

    *findings* checks the store of a URL, for the live page.
    """
    config = GatewayConfig.from_json(os.environ[CONFIG_VARIABLE])
    if os.environ.get(_ACCESS_LOG):
        _log_to_stderr()
    feed = Feed()
    gateway = Gateway(
        open_cache(config, feed),
        config,
        key=_key(config),
        feed=feed,
        findings=None if findings is None else lambda: findings(config.backend),
    )
    gc.collect()
    gc.freeze()  # what is there now stays, so the garbage collector need not look at it again
    gc.set_threshold(_OBJECTS_BETWEEN_COLLECTIONS)
    return gateway


def viewer(findings: Callable[[str], list[dict[str, str]]] | None = None) -> Viewer:
    """As ``application``, for the live page alone."""
    config = GatewayConfig.from_json(os.environ[CONFIG_VARIABLE])
    return Viewer(
        open_cache(config),
        config,
        findings=None if findings is None else lambda: findings(config.backend),
    )


def serve(
    config: GatewayConfig,
    *,
    started: Callable[[GatewayConfig], object],
    factory: str = "llm_cache_mem.gateway.server:application",
    access_log: bool = True,
) -> None:
    """Serve until SIGINT or SIGTERM; streams in progress then have half a minute to end.

    *started* is called when the gateway listens, with the port that it has. *factory* names what
    makes the application of each worker.

    Raises:
        ValueError: The settings do not go with the store.
        StoreError: The store cannot be opened.
        OSError: The address is in use.
    """
    _allow_many_connections()
    key = _key(config)
    open_cache(config).close()  # what is wrong with it is said here, not by each worker
    family = socket.AF_INET6 if ":" in config.host else socket.AF_INET
    listening = socket.create_server((config.host, config.port), family=family, backlog=2048)
    config = config.on_port(listening.getsockname()[1])
    os.environ[CONFIG_VARIABLE] = config.to_json()
    os.environ[_ACCESS_LOG] = "yes" if access_log else ""
    if key:
        os.environ.setdefault(KEY_VARIABLE, key.decode("latin-1"))
    settings = uvicorn.Config(
        factory,
        factory=True,
        workers=config.workers,
        log_level="error",
        access_log=False,
        ws="none",
        server_header=False,
        date_header=False,
        proxy_headers=False,
        timeout_graceful_shutdown=_SHUTDOWN_SECONDS,
    )
    started(config)
    if config.workers == 1:
        uvicorn.Server(settings).run(sockets=[listening])
        return
    with TemporaryDirectory(prefix="llm-cache-mem-") as folder:
        os.environ.setdefault(DIRECTORY, folder)
        Multiprocess(settings, sockets=[listening]).run()


def _key(config: GatewayConfig) -> bytes:
    return gateway_key(config.backend) if config.share == "credential" else b""


def _allow_many_connections() -> None:
    """Raise the number of files that this process may have open, which is 1,024 on many systems, to
    what it may raise it to."""
    if resource is not None:
        _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
        with suppress(OSError, ValueError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


def _log_to_stderr() -> None:
    access = logging.getLogger("llm_cache_mem.gateway.access")
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter("%(message)s"))
    access.addHandler(handler)
    access.setLevel(logging.INFO)
    access.propagate = False
