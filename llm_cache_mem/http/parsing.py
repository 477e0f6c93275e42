"""Discard an answer that an SDK's ``parse`` rejects: the next call goes to the provider.

The SDKs of OpenAI and Anthropic parse an answer with a function that they keep with the options of
the request, in a frame above the transport. Where that frame is not found, nothing is discarded.
"""

import asyncio
import sys
from collections.abc import Callable
from typing import Any, Final

from llm_cache_mem._util.in_thread import running_loop
from llm_cache_mem.engine.engine import Engine
from llm_cache_mem.keys.request import Request

__all__ = ["settle", "watch_parser"]

_FARTHEST: Final = 24
_PARSED: Final = frozenset({"output_config", "output_format", "response_format", "text", "tools"})
"""The params of which an SDK parses what they ask for."""
_rejections: Final["dict[str, asyncio.Task[None]]"] = {}
"""Rejections under way, by the key of the answer."""


def watch_parser(engine: Engine, request: Request) -> None:
    """Discard the answer to *request* if the SDK that is sending it cannot parse the answer."""
    if _PARSED.isdisjoint(request.params):
        return
    options = _options_above()
    parser = getattr(options, "post_parser", None)
    if callable(parser):
        options.post_parser = _rejecting(parser, engine, request)


def _options_above() -> Any:
    """The options of the SDK's request that is under way; None if there are none to be seen."""
    frame = sys._getframe(2)
    for _ in range(_FARTHEST):
        if "options" in frame.f_code.co_varnames:
            options = frame.f_locals.get("options")
            if hasattr(options, "post_parser"):
                return options
        if frame.f_back is None:
            break
        frame = frame.f_back
    return None


def _rejecting(
    parser: Callable[[Any], Any], engine: Engine, request: Request
) -> Callable[[Any], Any]:
    def parse(answer: Any) -> Any:
        try:
            return parser(answer)
        except ValueError:  # of pydantic, or of JSON
            loop = running_loop()
            if loop is None or not engine.backend.blocking:
                engine.reject(request)
            else:  # the SDK does not await its parser
                task = loop.create_task(engine.areject(request))
                _rejections[request.key] = task
                task.add_done_callback(lambda _: _rejections.pop(request.key, None))
            raise

    return parse


async def settle(request: Request) -> None:
    """Wait for the rejection of an earlier answer to *request* that is under way in this event
    loop."""
    task = _rejections.get(request.key) if _rejections else None
    if task is not None and task.get_loop() is running_loop():
        await asyncio.wait([task])
