"""What a probe works with: a cache under one small protocol, a folder, a provider, time, and other
processes."""

import asyncio
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import AsyncGenerator, Coroutine, Iterator
from pathlib import Path
from typing import Any, ClassVar, Protocol, TypeVar

from benchmarks.probes.forkserver import Forked, Spare
from benchmarks.probes.provider import Provider
from benchmarks.probes.servers import Redis

__all__ = [
    "Bench",
    "Cannot",
    "Clock",
    "Contestant",
    "Looped",
    "OfObjects",
    "OfTexts",
    "Peer",
    "Running",
]

T = TypeVar("T")


class Cannot(Exception):
    """This cannot be asked of this cache; the text says why."""


class Contestant(Protocol):
    """A cache with a way through it to the provider. A request is keywords: messages, model,
    parameters; base_url and api_key too.

    Every method but *ask* and *text* may raise Cannot.
    """

    name: ClassVar[str]
    configured: ClassVar[str]
    general: ClassVar[bool]
    keyed: ClassVar[bool]
    looped: ClassVar[bool]
    shared: ClassVar[str]
    packages: ClassVar[tuple[str, ...]]

    def ask(self, **request: Any) -> Any:
        """The answer through the cache, as it is handed to a program."""

    async def aask(self, **request: Any) -> Any:
        """The same in asyncio."""

    def stream(self, **request: Any) -> Iterator[str]:
        """The texts of a stream through the cache."""

    def text(self, answer: Any) -> Any:
        """The text of *answer*; a list of texts if it has several."""

    def spoil(self, answer: Any) -> None:
        """Change *answer* in place, so that its text is ``spoilt``."""

    def replace(self, texts: list[str], **request: Any) -> None:
        """Store *texts* as the answer to a request, over any other."""

    def all_texts(self, **request: Any) -> list[str]:
        """All that *ask* gives for a request, where its answer is several texts."""

    def settle(self) -> None:
        """Wait for what is written in the background."""

    def close(self) -> None: ...


class Peer:
    """What most contestants have in common: nothing but *ask* can be taken for granted."""

    name: ClassVar[str]
    configured: ClassVar[str] = ""
    general: ClassVar[bool] = False  # a cache of functions, which knows nothing of LLM answers
    keyed: ClassVar[bool] = True  # makes the key of a request by itself
    looped: ClassVar[bool] = False  # is for one event loop
    shared: ClassVar[str] = (
        # "file": what is stored survives the process in the bench's folder; "server": on a server
        ""
    )
    namespaced: ClassVar[bool] = False
    bounded: ClassVar[bool] = False  # takes max_size
    weighs: ClassVar[bool] = False  # takes max_bytes
    expires: ClassVar[bool] = False  # takes ttl
    packages: ClassVar[tuple[str, ...]] = ()

    def __init__(
        self,
        bench: "Bench",
        *,
        max_size: int | None = None,
        max_bytes: int | None = None,
        ttl: float | None = None,
        namespace: str = "",
    ) -> None:
        if max_size is not None and not self.bounded:
            raise Cannot(
                "is bounded by its server"
                if self.shared == "server"
                else "takes no bound on its entries"
            )
        if max_bytes is not None and not self.weighs:
            raise Cannot("takes no bound on its bytes")
        if ttl is not None and not self.expires:
            raise Cannot("has no time to live")
        if namespace and not self.namespaced:
            raise Cannot("has no namespaces")
        self.bench, self.ttl, self.namespace = bench, ttl, namespace
        self.max_size, self.max_bytes = max_size, max_bytes
        self.folder = bench.folder
        self.base_url = bench.url
        self.prepare()

    def prepare(self) -> None:
        """Open the cache, with *max_size*, *ttl* and *namespace* where they are not None or
        empty."""

    def ask(self, **request: Any) -> Any:
        raise NotImplementedError

    async def aask(self, **request: Any) -> Any:
        raise Cannot("has no asyncio form")

    def stream(self, **request: Any) -> Iterator[str]:
        raise Cannot("has no streams")

    def text(self, answer: Any) -> Any:
        texts = [choice["message"]["content"] for choice in answer["choices"]]
        return texts[0] if len(texts) == 1 else texts

    def spoil(self, answer: Any) -> None:
        answer["choices"][0]["message"]["content"] = "spoilt"

    def replace(self, texts: list[str], **request: Any) -> None:
        raise Cannot("stores only what it called for")

    def all_texts(self, **request: Any) -> list[str]:
        texts = self.text(self.ask(**request))
        return texts if isinstance(texts, list) else [texts]

    def settle(self) -> None:
        pass

    def close(self) -> None:
        pass


class OfObjects(Peer):
    """Its answers are completions as objects of an SDK, not as dicts."""

    def text(self, answer: Any) -> Any:
        texts = [choice.message.content for choice in answer.choices]
        return texts[0] if len(texts) == 1 else texts

    def spoil(self, answer: Any) -> None:
        answer.choices[0].message.content = "spoilt"


class OfTexts(Peer):
    """Its answers are objects with the text as ``content``."""

    def text(self, answer: Any) -> Any:
        return answer.content

    def spoil(self, answer: Any) -> None:
        answer.content = "spoilt"


class Looped(Peer):
    """It is for one event loop, the bench's, which runs in the main thread only. It has *aask*, and
    *astream* perhaps."""

    looped = True

    def ask(self, **request: Any) -> Any:
        self.needs_the_loop()
        return self.bench.run(self.aask(**request))

    def needs_the_loop(self) -> None:
        if threading.current_thread() is not threading.main_thread():
            raise Cannot("is for one event loop")

    def astream(self, **request: Any) -> AsyncGenerator[str]:
        """The texts of a stream through the cache, in asyncio."""
        raise Cannot("has no streams")

    def stream(self, **request: Any) -> Iterator[str]:
        pieces = self.astream(**request)
        return self._read(pieces)

    def _read(self, pieces: AsyncGenerator[str]) -> Iterator[str]:
        try:
            while True:
                yield self.bench.run(pieces.__anext__())
        except StopAsyncIteration:
            return
        finally:
            self.bench.run(pieces.aclose())


class Clock:
    """The wall clock as contestants see it: ``shift`` seconds away from the real one. ``sleep``
    waits; a test's moves time instead."""

    def __init__(self) -> None:
        self.shift = 0.0
        self._real = time.time

    def __call__(self) -> float:
        return self._real() + self.shift

    def install(self) -> None:
        """From now on this is ``time.time``. Before the contestant is imported."""
        time.time = self

    def sleep(self, seconds: float) -> None:
        time.sleep(seconds)


class Running:
    """A step under way in another interpreter."""

    def __init__(self, process: "subprocess.Popen[str]") -> None:
        self._process = process

    def line(self) -> str:
        """What it prints next; "" when it has ended."""
        assert self._process.stdout is not None
        return self._process.stdout.readline()

    def kill(self) -> None:
        self._process.kill()
        self._process.wait()
        if self._process.stdout is not None:
            self._process.stdout.close()

    def result(self, seconds: float = 140.0) -> Any:
        """What the step returned."""
        out, _ = self._process.communicate(timeout=seconds)
        lines = out.splitlines()
        if self._process.returncode != 0 or not lines:
            raise RuntimeError(f"the other process ended with status {self._process.returncode}")
        return json.loads(lines[-1])


class Bench:
    """One probe's workplace for one kind of contestant. Everything that it opened is closed with
    it."""

    def __init__(
        self,
        contestant: type[Contestant],
        folder: Path,
        *,
        clock: Clock | None = None,
        url: str = "",
        spare: Spare | None = None,
    ) -> None:
        self.contestant, self.folder, self.clock = contestant, folder, clock or Clock()
        self.opened: list[Contestant] = []
        self.others: list[Running | Forked] = []
        self.providers: list[Provider] = []
        self._url, self._spare, self._loop = url, spare, None
        self._redis: Redis | None = None
        self.given: dict[str, str] = {}  # the addresses of servers that a probe started

    @property
    def provider(self) -> Provider:
        if not self.providers:
            self.providers.append(Provider())
        return self.providers[0]

    @property
    def url(self) -> str:
        return self._url or self.provider.url

    def second_provider(self) -> Provider:
        assert self.provider  # the first is the first
        self.providers.append(Provider("another answer"))
        return self.providers[-1]

    def open(self, **settings: Any) -> Contestant:
        """The contestant, on this bench's folder and provider; Cannot if it has no such setting."""
        # every class has Peer's constructor
        made = self.contestant(self, **settings)  # type: ignore[call-arg]
        self.opened.append(made)
        return made

    def cold(self) -> Contestant:
        """The contestant with an empty cache."""
        if self.contestant.shared == "server":
            self.redis().flush()
        self.folder = self.folder.parent / f"{self.folder.name}-cold-{len(self.opened)}"
        self.folder.mkdir()
        return self.open()

    def needs(self, shared: str, why: str) -> None:
        if self.contestant.shared != shared:
            raise Cannot(why)

    def redis(self) -> Redis:
        """This bench's own Redis, started when first asked for; Cannot if none is installed."""
        if self._redis is None:
            try:
                self._redis = Redis()
            except FileNotFoundError as exc:
                raise Cannot(str(exc)) from None
            self.given["redis"] = str(self._redis.port)
        return self._redis

    def redis_port(self) -> int:
        """Where that Redis listens, which another process of the probe may have started."""
        return int(self.given["redis"]) if "redis" in self.given else self.redis().port

    def elsewhere(self, step: str, *args: Any, seed: int | None = None) -> "Running | Forked":
        """Start ``steps.<step>`` in another process, with the same contestant, folder and provider;
        with *seed*, its own hash seed."""
        if self.contestant.shared == "server":
            self.redis()
        arguments = [self.contestant.name, str(self.folder), self.url, step, json.dumps(args)]
        folder = self.folder.parent / f"{self.folder.name}.cwd"
        folder.mkdir(exist_ok=True)
        running = (
            self._forked(arguments, folder)
            if self._spare and seed is None
            else self._interpreter(arguments, folder, seed or 0)
        )
        self.others.append(running)
        return running

    def _forked(self, arguments: list[str], folder: Path) -> Forked:
        assert self._spare is not None
        return self._spare.start(
            *arguments, cwd=str(folder), environment={"PROBES_SERVERS": json.dumps(self.given)}
        )

    def _interpreter(self, arguments: list[str], folder: Path, seed: int) -> Running:
        command = [sys.executable, "-m", "benchmarks.probes.steps", *arguments]
        environment = {
            **os.environ,
            "PYTHONHASHSEED": str(seed),
            "PROBES_SERVERS": json.dumps(self.given),
        }
        root = Path(__file__).resolve().parents[2]
        paths = [
            str(root),
            str(root / "integrations"),
            *filter(None, [os.environ.get("PYTHONPATH")]),
        ]
        environment["PYTHONPATH"] = os.pathsep.join(paths)
        process = subprocess.Popen(
            command,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            stdin=subprocess.DEVNULL,
            text=True,
            env=environment,
            cwd=folder,
        )
        return Running(process)

    def run(self, coroutine: Coroutine[Any, Any, T]) -> T:
        """Run *coroutine* on the one event loop of this bench."""
        if self._loop is None:
            self._loop = asyncio.new_event_loop()
        return self._loop.run_until_complete(coroutine)

    def close(self) -> None:
        for running in self.others:
            running.kill()
        if self._spare is not None:
            self._spare.close()
        for contestant in reversed(self.opened):
            contestant.close()
        if self._redis is not None:
            self._redis.kill()
        if self._loop is not None:
            self._loop.close()
        for provider in self.providers:
            provider.close()
