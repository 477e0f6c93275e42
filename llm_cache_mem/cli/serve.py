"""``llm-cache-mem serve``: the gateway, for programs in any language."""

import os
from pathlib import Path
from typing import Annotated, Any

import typer

from llm_cache_mem.cli.arguments import MISUSED, CommandFailed, Url, seconds_in, url_of
from llm_cache_mem.cli.gateway_process import become
from llm_cache_mem.cli.store import Reader
from llm_cache_mem.stores.urls import URL_VARIABLE

__all__ = ["serve", "ui"]


def serve(
    backend: Annotated[
        str | None,
        typer.Option(help=f"The store: a URL or a path. Default: {URL_VARIABLE}, or memory."),
    ] = None,
    port: Annotated[int | None, typer.Option(help="Default: 4040; 0 picks a free port.")] = None,
    host: Annotated[str | None, typer.Option(help="Default: 127.0.0.1.")] = None,
    upstream: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME=URL", help="Forward /NAME/ to URL; may be repeated."),
    ] = None,
    mode: Annotated[
        str | None, typer.Option(help="on, off, refresh, or replay: never call a provider.")
    ] = None,
    ttl: Annotated[
        str | None,
        typer.Option(metavar="SPAN", help="Lifetime of entries: 1h, 7d; none for no limit."),
    ] = None,
    workers: Annotated[
        int | None, typer.Option(help="Number of processes, which share the store.")
    ] = None,
    ignore: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME", help="Leave this param out of the key; may be repeated."),
    ] = None,
    share: Annotated[
        str | None,
        typer.Option(
            help="credential: share within one API key (default); all: share among all callers."
        ),
    ] = None,
    trust: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NETWORK",
            help="Network whose X-LLM-Cache-Namespace header is trusted: 10.0.0.0/8.",
        ),
    ] = None,
    token: Annotated[
        str | None,
        typer.Option(
            envvar="LLM_CACHE_MEM_GATEWAY_TOKEN",
            show_envvar=True,
            help="Token that clients must send as X-LLM-Cache-Token.",
        ),
    ] = None,
    i_know: Annotated[
        bool, typer.Option("--i-know", help="Listen beyond loopback without a token.")
    ] = False,
    keep_requests: Annotated[
        bool, typer.Option("--keep-requests", help="Store requests too, redacted, for the page.")
    ] = False,
    config: Annotated[
        Path | None, typer.Option(help="A TOML file of settings; options take precedence.")
    ] = None,
    quiet: Annotated[bool, typer.Option("--quiet", help="No access log.")] = False,
) -> None:
    """Start the gateway, a cache for programs in any language.

    Point the base URL of an SDK to it: http://127.0.0.1:4040/openai/v1, /anthropic, /gemini.
    """
    given: dict[str, Any] = {
        "backend": backend,
        "port": port,
        "host": host,
        "mode": mode,
        "workers": workers,
        "ignore": tuple(ignore) if ignore else None,
        "share": share,
        "trust": tuple(trust) if trust else None,
        "token": token,
        "i_know": i_know or None,
        "keep_requests": keep_requests or None,
        "upstreams": _upstreams(upstream) if upstream else None,
    }
    given = {name: value for name, value in given.items() if value is not None}
    if config is None and URL_VARIABLE in os.environ:
        given.setdefault("backend", os.environ[URL_VARIABLE])
    if ttl is not None:
        given["ttl_seconds"] = None if ttl == "none" else seconds_in(ttl)
    from llm_cache_mem.gateway.config import GatewayConfig

    try:
        settings = (
            GatewayConfig(**given) if config is None else GatewayConfig.from_file(config, **given)
        )
    except (ValueError, TypeError) as exc:
        raise CommandFailed(str(exc), MISUSED) from None
    raise typer.Exit(become("serve", settings, access_log=not quiet))


def ui(
    url: Url = None,
    port: Annotated[int, typer.Option(help="0 picks a free port.")] = 4041,
) -> None:
    """Browse a store in the web browser: find, show and delete entries.

    With requests, answers, what they depend on, and the doctor's findings.
    """
    url = url_of(url)
    Reader(url).close()  # which opens nothing that is not there
    from llm_cache_mem.gateway.config import GatewayConfig

    try:
        settings = GatewayConfig(backend=url, port=port, share="all", max_size=None)
    except ValueError as exc:
        raise CommandFailed(str(exc), MISUSED) from None
    raise typer.Exit(become("ui", settings, access_log=False))


def _upstreams(pairs: list[str]) -> dict[str, str]:
    named = {}
    for pair in pairs:
        name, separator, url = pair.partition("=")
        if not separator:
            raise CommandFailed(
                "an upstream is NAME=URL, such as azure=https://example.com", MISUSED
            )
        named[name] = url
    return named
