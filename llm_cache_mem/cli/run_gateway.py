"""``llm-cache-mem run --gateway``: a gateway for the time that a program runs."""

import json
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Final, NamedTuple

from llm_cache_mem.cli.arguments import CommandFailed
from llm_cache_mem.installation.child import Savings

__all__ = ["BASE_URLS", "RunningGateway", "gateway"]

BASE_URLS: Final[Mapping[str, tuple[str, str]]] = {
    "OPENAI_BASE_URL": ("openai", "/openai/v1"),
    "OPENAI_API_BASE": ("openai", "/openai/v1"),
    "ANTHROPIC_BASE_URL": ("anthropic", "/anthropic"),
    "GOOGLE_GEMINI_BASE_URL": ("gemini", "/gemini"),
    "GROQ_BASE_URL": ("groq", "/groq"),
    "MISTRAL_BASE_URL": ("mistral", "/mistral"),
    "CO_API_URL": ("cohere", "/cohere"),
    "DEEPSEEK_BASE_URL": ("deepseek", "/deepseek"),
    "OPENROUTER_BASE_URL": ("openrouter", "/openrouter/api/v1"),
    "XAI_BASE_URL": ("xai", "/xai/v1"),
    "OLLAMA_HOST": ("ollama", "/ollama"),
}
"""The variables from which SDKs and tools take a base URL: the upstream of each, and the path of
the gateway that stands for it."""

_SECONDS: Final = 60.0


class RunningGateway(NamedTuple):
    """A gateway that runs: its *url*, and what to add to a program's environment."""

    url: str
    environment: dict[str, str]

    def savings(self) -> Savings:
        """What the calls came to so far."""
        from urllib.request import Request, urlopen  # with all of ssl: each command would load it

        request = Request(f"{self.url}/_cache/api/summary", headers={"x-llm-cache-page": "1"})
        with urlopen(request, timeout=10) as response:
            sums: dict[str, Any] = json.load(response)
        return Savings(
            processes=1,
            answered=sums["avoided"],
            made=sums["asked"] - sums["avoided"],
            uncached=sum(sums["skipped"].values()),
            tokens=sums["tokens"],
            seconds=sums["seconds"],
            usd=sums["usd"] or None,
        )


@contextmanager
def gateway(
    settings: Mapping[str, Any], environment: Mapping[str, str]
) -> Iterator[RunningGateway]:
    """A gateway with *settings* of GatewayConfig on a free port; base URLs that *environment*
    already names become its upstreams. CommandFailed if it does not start."""
    from llm_cache_mem.installation.active import GATEWAY_VARIABLE  # it loads asyncio

    command = [sys.executable, "-m", "llm_cache_mem", "serve", "--port", "0", "--quiet"]
    command += ["--share", "all"]  # one user's programs
    for name, value in settings.items():
        command += [f"--{name}", str(value)]
    paths: dict[str, str] = {}
    for variable, (upstream, path) in BASE_URLS.items():
        own = environment.get(variable)
        if own:
            command += ["--upstream", f"{upstream}={own if '://' in own else f'http://{own}'}"]
        paths[variable] = f"/{upstream}" if own else path
    process = subprocess.Popen(
        command, env=dict(environment), stderr=subprocess.PIPE, stdin=subprocess.DEVNULL, text=True
    )
    assert process.stderr is not None
    try:
        first = process.stderr.readline()
        if " on http://" not in first:
            raise CommandFailed((first + process.stderr.read()).removeprefix("error: ").strip())
        url = first.split(" on ")[1].split(": ")[0]
        added = {variable: url + path for variable, path in paths.items()}
        added[GATEWAY_VARIABLE] = url.partition("://")[2]
        yield RunningGateway(url, added)
    finally:
        process.terminate()
        try:
            process.wait(_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        process.stderr.close()
