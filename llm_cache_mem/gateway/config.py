"""The settings of a gateway: from the command line, from a TOML file, for its worker processes."""

import json
import tomllib
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from datetime import timedelta
from functools import cached_property
from ipaddress import ip_network
from os import PathLike
from pathlib import Path
from typing import Any, Final, Literal, Self
from urllib.parse import urlsplit

from llm_cache_mem.options import Duration, Mode, check_mode, to_seconds

__all__ = ["CONFIG_VARIABLE", "KNOWN_UPSTREAMS", "LOOPBACK", "GatewayConfig", "Upstream"]

CONFIG_VARIABLE: Final = "LLM_CACHE_MEM_GATEWAY_CONFIG"
"""The environment variable that hands the settings to a process of the gateway, as ``to_json``."""

KNOWN_UPSTREAMS: Final[Mapping[str, str]] = {
    "anthropic": "https://api.anthropic.com",
    "cohere": "https://api.cohere.com",
    "deepseek": "https://api.deepseek.com",
    "gemini": "https://generativelanguage.googleapis.com",
    "groq": "https://api.groq.com",
    "mistral": "https://api.mistral.ai",
    "ollama": "http://127.0.0.1:11434",
    "openai": "https://api.openai.com",
    "openrouter": "https://openrouter.ai",
    "xai": "https://api.x.ai",
}
"""Where requests under ``/NAME/`` go, for the names that need no ``--upstream``."""

LOOPBACK: Final = ("127.0.0.1", "::1", "localhost")

_RESERVED = ("_cache", "healthz", "metrics")


@dataclass(frozen=True)
class Upstream:
    """A provider's server: the URL in front of the path of a request."""

    name: str
    scheme: str
    host: str
    port: int | None
    path: str

    @classmethod
    def parse(cls, name: str, url: str) -> Self:
        """The upstream of *url*. ValueError for a URL that is none; it is not repeated, because it
        may hold a password."""
        if not name or not name.replace("-", "").replace("_", "").replace(".", "").isalnum():
            raise ValueError(f"{name!r} cannot name an upstream: use letters, digits, - _ and .")
        if name in _RESERVED:
            raise ValueError(f"{name!r} cannot name an upstream: the gateway itself answers there")
        try:
            parts = urlsplit(url)
            host, port = parts.hostname, parts.port
        except ValueError:
            host, port, parts = None, None, urlsplit("")
        if parts.scheme not in ("http", "https") or not host:
            raise ValueError(f"the upstream {name} needs a URL such as https://api.example.com")
        if parts.username or parts.password or parts.query or parts.fragment:
            raise ValueError(f"the URL of the upstream {name} takes a host and a path only")
        return cls(name, parts.scheme, host, port, parts.path.rstrip("/"))

    @cached_property
    def origin(self) -> str:
        """``scheme://host[:port]``."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{self.scheme}://{host}" + ("" if self.port is None else f":{self.port}")


@dataclass(frozen=True, kw_only=True)
class GatewayConfig:
    """The settings of a gateway.

    Args:
        backend: The store, as LLMCache takes it.
        upstreams: Base URLs by name, in addition to KNOWN_UPSTREAMS or in place of one.
        host: The address to listen on. Anything but loopback needs *token* or *i_know*.
        port: The port to listen on; 0 for a free one.
        workers: Processes. More than one need a store that they share.
        mode: As in LLMCache.
        ttl_seconds: As in LLMCache.
        max_size: Most entries, for stores that keep to a bound; None for no limit.
        ignore: Names of parameters that are not part of a request, in addition to LLMCache's own.
        share: Who shares answers: ``"credential"``, requests with the same credential;
            ``"all"``, all requests.
        trust: Networks, such as ``10.0.0.0/8``, whose clients may choose a namespace by the header
            ``X-LLM-Cache-Namespace``.
        token: What clients have to send as ``X-LLM-Cache-Token``; None for nothing.
        i_know: Listen on an address that is not loopback without a token.
        page_hosts: Host names under which the live page may be opened besides loopback's.
        keep_requests: Store each request beside its answer, redacted, for the page.

    Raises:
        TypeError: A setting has the wrong type.
        ValueError: A setting has the wrong value.
    """

    backend: str = "memory"
    upstreams: Mapping[str, str] = field(default_factory=dict)
    host: str = "127.0.0.1"
    port: int = 4040
    workers: int = 1
    mode: Mode | None = None
    ttl_seconds: Duration = 3600
    max_size: int | None = 100_000
    ignore: tuple[str, ...] = ()
    share: Literal["credential", "all"] = "credential"
    trust: tuple[str, ...] = ()
    token: str | None = None
    i_know: bool = False
    page_hosts: tuple[str, ...] = ()
    keep_requests: bool = False

    def __post_init__(self) -> None:
        for name in ("ignore", "trust", "page_hosts"):
            object.__setattr__(self, name, tuple(getattr(self, name)))
        for name, url in self.upstreams.items():
            Upstream.parse(name, url)
        for network in self.trust:
            ip_network(network, strict=False)
        to_seconds(self.ttl_seconds)
        if self.mode is not None:
            check_mode(self.mode)
        if self.share not in ("credential", "all"):
            raise ValueError(f"share must be credential or all, not {self.share!r}")
        if isinstance(self.workers, bool) or not isinstance(self.workers, int) or self.workers < 1:
            raise ValueError(f"workers must be a whole number from 1, not {self.workers!r}")
        if not 0 <= self.port < 65536:
            raise ValueError(f"port must be from 0 to 65535, not {self.port!r}")
        if self.host not in LOOPBACK and not self.token and not self.i_know:
            raise ValueError(
                f"listening on {self.host} lets others use this gateway: set a token (--token), or"
                " say that this is meant (--i-know)"
            )

    def __repr__(self) -> str:
        return f"GatewayConfig(host={self.host!r}, port={self.port!r}, share={self.share!r})"

    def all_upstreams(self) -> dict[str, Upstream]:
        """Every upstream, by name."""
        urls = {**KNOWN_UPSTREAMS, **self.upstreams}
        return {name: Upstream.parse(name, url) for name, url in urls.items()}

    def to_json(self) -> str:
        """The settings as text, for the environment of a worker process."""
        settings = asdict(self)
        if isinstance(self.ttl_seconds, timedelta):
            settings["ttl_seconds"] = to_seconds(self.ttl_seconds)
        return json.dumps(settings)

    @classmethod
    def from_json(cls, text: str) -> Self:
        """The settings of ``to_json``."""
        return cls(**json.loads(text))

    @classmethod
    def from_file(cls, path: str | PathLike[str], **given: Any) -> Self:
        """The settings in a TOML file; *given* ones take precedence. ValueError, which names the
        file, for a file that is not TOML or has an unknown setting."""
        try:
            settings = tomllib.loads(Path(path).read_text(encoding="utf-8"))
        except (tomllib.TOMLDecodeError, UnicodeDecodeError) as exc:
            raise ValueError(f"{path}: {exc}") from None
        known = {field.name for field in fields(cls)}
        unknown = sorted(settings.keys() - known)
        if unknown:
            raise ValueError(
                f"{path}: unknown setting {', '.join(unknown)}; known are"
                f" {', '.join(sorted(known))}"
            )
        upstreams = {**settings.pop("upstreams", {}), **given.pop("upstreams", {})}
        try:
            return cls(**{**settings, **given}, upstreams=upstreams)
        except (TypeError, ValueError) as exc:
            raise ValueError(f"{path}: {exc}") from None

    def on_port(self, port: int) -> Self:
        """The same settings with another port."""
        return replace(self, port=port)
