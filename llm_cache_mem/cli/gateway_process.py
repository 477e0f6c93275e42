"""The process that a gateway runs in, without the libraries of the command line.

``llm-cache-mem serve`` and ``ui`` become it: the program in a process is replaced, so its id, its
files and its parent stay.
"""

import os
import sys
from typing import TYPE_CHECKING, Any, Final, Literal

from llm_cache_mem._util.terminal import visible
from llm_cache_mem.errors import LLMCacheError

if TYPE_CHECKING:
    from llm_cache_mem.gateway.config import GatewayConfig

__all__ = ["application", "become", "main", "viewer"]

_FAILED, _MISUSED = 1, 2
_MODULE: Final = "llm_cache_mem.cli.gateway_process"


def become(what: Literal["serve", "ui"], config: "GatewayConfig", *, access_log: bool) -> int:
    """Run a gateway, or the page alone, in place of this program; its exit status."""
    from llm_cache_mem.gateway.config import CONFIG_VARIABLE

    arguments = ["-m", _MODULE, what, *(() if access_log else ("--quiet",))]
    if sys.path[0] not in ("", os.getcwd()):
        arguments.insert(0, "-P")  # else a module in this folder would be taken for a library
    os.environ[CONFIG_VARIABLE] = config.to_json()
    if sys.platform == "win32":  # where a program cannot be replaced
        sys.argv[1:] = arguments[arguments.index(_MODULE) + 1 :]
        return main()
    os.execv(sys.executable, [sys.executable, *arguments])


def main() -> int:
    """Run what the arguments name with the settings in the environment; the exit status."""
    shows_only = sys.argv[1] == "ui"
    try:
        from llm_cache_mem.gateway.config import CONFIG_VARIABLE, GatewayConfig
        from llm_cache_mem.gateway.server import serve

        serve(
            GatewayConfig.from_json(os.environ[CONFIG_VARIABLE]),
            started=_announce_page if shows_only else _announce,
            factory=f"{_MODULE}:{'viewer' if shows_only else 'application'}",
            access_log="--quiet" not in sys.argv,
        )
    except (ImportError, TypeError, ValueError) as exc:
        return _fail(str(exc), _MISUSED)
    except LLMCacheError as exc:
        return _fail(str(exc), _FAILED)
    except OSError as exc:
        return _fail(f"{exc.filename}: {exc.strerror}" if exc.filename else str(exc), _FAILED)
    return 0


def application() -> Any:
    """The gateway of a worker process, whose page shows what the doctor finds."""
    from llm_cache_mem.gateway.server import application

    return application(_findings)


def viewer() -> Any:
    """The live page alone, of ``ui``."""
    from llm_cache_mem.gateway.server import viewer

    return viewer(_findings)


def _findings(url: str) -> list[dict[str, str]]:
    if url == "memory":
        return []
    from llm_cache_mem.cli.doctor.command import check  # it loads the command line's libraries

    return [finding._asdict() for finding in check(url, rounds=20)]


def _fail(text: str, status: int) -> int:
    sys.stderr.write(f"error: {visible(text, lines=True)}\n")
    return status


def _url(config: "GatewayConfig") -> str:
    host = f"[{config.host}]" if ":" in config.host else config.host
    return f"http://{host}:{config.port}"


def _announce_page(config: "GatewayConfig") -> None:
    sys.stderr.write(f"{_url(config)}/_cache/ (Ctrl-C ends it)\n")
    sys.stderr.flush()


def _announce(config: "GatewayConfig") -> None:
    url = _url(config)
    shared = (
        "all callers share answers"
        if config.share == "all"
        else "each credential has its own answers"
    )
    lines = [
        f"llm-cache-mem gateway on {url}: {shared}",
        f"  OPENAI_BASE_URL={url}/openai/v1",
        f"  ANTHROPIC_BASE_URL={url}/anthropic",
        f"  GOOGLE_GEMINI_BASE_URL={url}/gemini",
        f"  live page: {url}/_cache/",
    ]
    if config.trust:
        lines.append(f"  X-LLM-Cache-Namespace counts from {', '.join(config.trust)}")
    sys.stderr.write("\n".join(lines) + "\n")
    sys.stderr.flush()


if __name__ == "__main__":
    sys.exit(main())
