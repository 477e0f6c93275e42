"""Calls of tools by their rules: answered from the store, or run once for all callers that wait."""

from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

from llm_cache_mem.engine.generations import generation_of_tool
from llm_cache_mem.errors import CacheMissError, StoreError
from llm_cache_mem.tools.results import Form, Results, skip_reason, tool_ttl
from llm_cache_mem.tools.rules import Rule

__all__ = ["Calls", "with_ttl_of"]

T = TypeVar("T")


class _NotStored(Exception):
    """The call was made, and its result is for its caller alone."""


class Calls:
    """Calls of tools over *results*; the base of ToolCache. Thread-safe."""

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
        encode: Callable[[Any], Any] | None = None,
        decode: Callable[[Any], Any] | None = None,
        skip: Callable[[Any], str | None] = skip_reason,
    ) -> T:
        """The stored result of *tool*, or that of ``run()``; layers for frameworks are built on it.

        What *run* raises is raised to its own caller only; callers that waited for it make calls of
        their own.

        Args:
            tool: The name of the tool.
            args: Its arguments by name; anything else goes uncached.
            run: Runs the tool.
            rule: How the tool is cached; None: not at all.
            form: Keeps results apart that differ in kind.
            encode: Makes the stored value from a result.
            decode: Makes a result from a stored value.
            skip: Returns why a result is not to be stored; None to store it.
        """
        if rule is None:
            return run()
        if rule.writes:
            return self._write(tool, args, rule, run)
        own = _Run(run, skip)
        with with_ttl_of(rule):
            request = self._results.of_call(tool, args, rule, form)
            if request is None:
                return run()
            try:
                # what run gave
                return self._results.engine.call(request, own.run, **_codec(encode, decode))  # type: ignore[no-any-return]
            except (CacheMissError, StoreError):
                raise
            except Exception:
                if own.began and not own.ended:
                    raise
            return self._not_stored(tool, own) if own.ended else run()

    async def acall(
        self,
        tool: str,
        args: Any,
        run: Callable[[], Awaitable[T]],
        *,
        rule: Rule | None,
        form: Form = "tool",
        encode: Callable[[Any], Any] | None = None,
        decode: Callable[[Any], Any] | None = None,
        skip: Callable[[Any], str | None] = skip_reason,
    ) -> T:
        """``call`` for a coroutine function."""
        if rule is None:
            return await run()
        if rule.writes:
            return await self._awrite(tool, args, rule, run)
        own = _Run(run, skip)
        with with_ttl_of(rule):
            request = self._results.of_call(tool, args, rule, form)
            if request is None:
                return await run()
            try:
                return await self._results.engine.acall(request, own.arun, **_codec(encode, decode))  # type: ignore[no-any-return]
            except (CacheMissError, StoreError):
                raise
            except Exception:
                if own.began and not own.ended:
                    raise
            return self._not_stored(tool, own) if own.ended else await run()

    # -- Inside

    def _not_stored(self, tool: str, own: "_Run") -> Any:
        """The result of *own* for its caller, counted as skipped."""
        if own.reason is not None:
            self._results.skip(
                tool, own.reason, "the result of a tool was not stored: %s", own.reason
            )
        return own.result

    def _write(self, tool: str, args: Any, rule: Rule, run: Callable[[], T]) -> T:
        result: Any = None
        try:
            result = run()
        finally:  # a call that failed may have changed something
            self._invalidate_changed(tool, args, rule, result)
        return result  # type: ignore[no-any-return]  # what run gave

    async def _awrite(self, tool: str, args: Any, rule: Rule, run: Callable[[], Awaitable[T]]) -> T:
        result: Any = None
        try:
            result = await run()
        finally:
            await self._results.engine.off_loop(
                lambda: self._invalidate_changed(tool, args, rule, result)
            )
        return result  # type: ignore[no-any-return]  # as above

    def _invalidate_changed(self, tool: str, args: Any, rule: Rule, result: Any) -> None:
        """Invalidate what *tool* changed. The call has been made, so failures are logged and not
        raised to its caller."""
        generations = self._results.generations
        try:
            ended = [generations.end_later(name) for name in rule.entities(args, result)]
        except Exception as exc:  # noqa: BLE001  # which entities is unknown, so all of them
            self._results.skip(
                tool,
                "entities",
                "it is unknown what a tool changed (%s): all results are invalid",
                type(exc).__name__,
            )
            ended = [generations.end_later(None)]
        ended += [generations.end_later(generation_of_tool(name)) for name in rule.changes]
        if not all(ended):
            self._results.skip(
                tool,
                "invalidate",
                "the store failed: what a tool changed goes uncached here until it works again",
            )


class _Run:
    """One run of a tool: whether it began and ended, its result, and why that is not stored."""

    def __init__(self, run: Callable[[], Any], skip: Callable[[Any], str | None]) -> None:
        self._run = run
        self._skip = skip
        self.began = self.ended = False
        self.result: Any = None
        self.reason: str | None = None

    def run(self) -> Any:
        self.began = True
        return self._end(self._run())

    async def arun(self) -> Any:
        self.began = True
        return self._end(await self._run())

    def _end(self, result: Any) -> Any:
        self.ended, self.result = True, result
        self.reason = self._skip(result)
        if self.reason is not None:
            raise _NotStored
        return result


@contextmanager
def with_ttl_of(rule: Rule) -> Iterator[None]:
    """Let results live as long as *rule* says."""
    token = tool_ttl.set(rule.ttl_seconds)
    try:
        yield
    finally:
        tool_ttl.reset(token)


def _codec(encode: Any, decode: Any) -> dict[str, Any]:
    given = {"encode": encode, "decode": decode}
    return {name: function for name, function in given.items() if function is not None}
