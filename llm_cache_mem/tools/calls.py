"""Calls: a tool by its rule, answered from the store, run once for all who ask, or run and what it
changed made invalid.

ToolCache is this with what users say and call; the layers for frameworks stand on what is here.
"""

from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

from llm_cache_mem.errors import CacheMissError, StoreError
from llm_cache_mem.tools.results import Form, Results, lifetime, why_unstored
from llm_cache_mem.tools.rules import Rule

__all__ = ["Calls", "living"]

T = TypeVar("T")


class _Unstored(Exception):
    """The call was made, and what it gave is for its caller alone."""


class Calls:
    """Calls of tools over *results*. Thread-safe."""

    def __init__(self, results: Results) -> None:
        self._results = results

    def call(
        self,
        tool: str,
        args: Any,
        run: Callable[[], T],
        *,
        rule: Rule | None,
        form: Form = "tool",
        dump: Callable[[Any], Any] | None = None,
        load: Callable[[Any], Any] | None = None,
        refuse: Callable[[Any], str | None] = why_unstored,
    ) -> T:
        """The result of *tool* by *rule* (None: without the cache), or that of ``run()``: what the
        layers for frameworks stand on.

        *form* tells values apart that differ in kind; *dump* makes the stored value from a result,
          and *load* a result from a stored
        value; *refuse* says why a result is for its caller alone. What *run* raises is raised, and
        only to who called it: who waited for it makes a call of its own.
        """
        if rule is None:
            return run()
        if rule.writes:
            return self._write(tool, args, rule, run)
        flight = _Flight(run, refuse)
        with living(rule):
            request = self._results.of_call(tool, args, rule, form)
            if request is None:
                return run()
            try:
                # what run gave
                return self._results.engine.call(request, flight.run, **_ways(dump, load))  # type: ignore[no-any-return]
            except (CacheMissError, StoreError):
                raise
            except Exception:
                if flight.began and not flight.landed:
                    raise
            return self._alone(tool, flight) if flight.landed else run()

    async def acall(
        self,
        tool: str,
        args: Any,
        run: Callable[[], Awaitable[T]],
        *,
        rule: Rule | None,
        form: Form = "tool",
        dump: Callable[[Any], Any] | None = None,
        load: Callable[[Any], Any] | None = None,
        refuse: Callable[[Any], str | None] = why_unstored,
    ) -> T:
        """``call`` for a coroutine function."""
        if rule is None:
            return await run()
        if rule.writes:
            return await self._awrite(tool, args, rule, run)
        flight = _Flight(run, refuse)
        with living(rule):
            request = await self._results.engine.off_loop(
                lambda: self._results.of_call(tool, args, rule, form)
            )
            if request is None:
                return await run()
            try:
                return await self._results.engine.acall(request, flight.arun, **_ways(dump, load))  # type: ignore[no-any-return]
            except (CacheMissError, StoreError):
                raise
            except Exception:
                if flight.began and not flight.landed:
                    raise
            return self._alone(tool, flight) if flight.landed else await run()

    # -- Inside

    def _alone(self, tool: str, flight: "_Flight") -> Any:
        """The result that its caller alone gets."""
        if flight.reason is not None:
            self._results.pass_by(
                tool, flight.reason, "the result of a tool was not stored: %s", flight.reason
            )
        return flight.result

    def _write(self, tool: str, args: Any, rule: Rule, run: Callable[[], T]) -> T:
        result: Any = None
        try:
            result = run()
        finally:  # what failed may have been half done
            self._changed(tool, args, rule, result)
        return result  # type: ignore[no-any-return]  # what run gave

    async def _awrite(self, tool: str, args: Any, rule: Rule, run: Callable[[], Awaitable[T]]) -> T:
        result: Any = None
        try:
            result = await run()
        finally:
            await self._results.engine.off_loop(lambda: self._changed(tool, args, rule, result))
        return result  # type: ignore[no-any-return]  # as above

    def _changed(self, tool: str, args: Any, rule: Rule, result: Any) -> None:
        """Invalidate what *tool* changed. The call has been made: no failure here is told to its
        caller."""
        generations = self._results.generations
        try:
            ended = [
                generations.end_later(("entity", name)) for name in rule.entities(args, result)
            ]
        except Exception as exc:  # noqa: BLE001  # nobody knows which: then all of them
            self._results.pass_by(
                tool,
                "entities",
                "it is unknown what a tool changed (%s): all results are invalid",
                type(exc).__name__,
            )
            ended = [generations.end_later(None)]
        ended += [generations.end_later(("tool", name)) for name in rule.changes]
        if not all(ended):
            self._results.pass_by(
                tool,
                "invalidate",
                "the store failed: what a tool changed goes uncached here until it works again",
            )


class _Flight:
    """One call of a tool: whether it began and landed, with what, and why that is not for
    storing."""

    def __init__(self, run: Callable[[], Any], refuse: Callable[[Any], str | None]) -> None:
        self._run = run
        self._refuse = refuse
        self.began = self.landed = False
        self.result: Any = None
        self.reason: str | None = None

    def run(self) -> Any:
        self.began = True
        return self._land(self._run())

    async def arun(self) -> Any:
        self.began = True
        return self._land(await self._run())

    def _land(self, result: Any) -> Any:
        self.landed, self.result = True, result
        self.reason = self._refuse(result)
        if self.reason is not None:
            raise _Unstored
        return result


@contextmanager
def living(rule: Rule) -> Iterator[None]:
    token = lifetime.set(rule.ttl_seconds)
    try:
        yield
    finally:
        lifetime.reset(token)


def _ways(dump: Any, load: Any) -> dict[str, Any]:
    return {name: way for name, way in (("encode", dump), ("decode", load)) if way is not None}
