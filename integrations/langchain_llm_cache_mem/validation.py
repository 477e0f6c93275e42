"""Discard an answer that its caller's own validation rejects: the next call goes to the model.

A parser runs after the model, as a step of its own. LangChain tells its callbacks what each step is
given and whether it failed, and the id of a message tells which answer that was.
"""

from collections.abc import Sequence
from contextvars import ContextVar
from typing import Any, Final
from uuid import UUID
from weakref import ref

from langchain_core.messages import AIMessage
from langchain_core.tracers.context import register_configure_hook

from langchain_llm_cache_mem.generations import answer_id, tell_run
from langchain_llm_cache_mem.inline import InlineHandler
from llm_cache_mem import Request
from llm_cache_mem.engine.engine import Engine

__all__ = ["note_answer", "watch_steps"]

_LIMIT: Final = 1024
_answers: dict[str, tuple["ref[Engine]", Request]] = {}
"""By the id of their message, the answers given lately."""


def note_answer(
    engine: Engine, request: Request, generations: Sequence[Any], run_manager: Any
) -> None:
    """Note that *generations*, which the run of *run_manager* gave, answer *request*, and tell the
    run if they are a hit."""
    tell_run(run_manager, generations)
    message_id = answer_id(generations, getattr(run_manager, "run_id", None))
    if message_id is not None:
        while len(_answers) >= _LIMIT:
            _answers.pop(next(iter(_answers)), None)
        # without its messages, which may be long
        _answers[message_id] = ref(engine), request._replace(messages=None, params={}, text=None)


class _Steps(InlineHandler):
    """Sees each step that is given an answer, and rejects the answer if the step ends with a
    ValueError, which is what parsers and pydantic raise."""

    def __init__(self) -> None:
        self._given: dict[UUID, str] = {}

    @property
    def ignore_llm(self) -> bool:
        return True

    @property
    def ignore_chat_model(self) -> bool:
        return True

    def on_chain_start(self, serialized: Any, inputs: Any, *, run_id: UUID, **kwargs: Any) -> None:
        if isinstance(inputs, AIMessage) and inputs.id in _answers:
            self._given[run_id] = inputs.id

    def on_chain_end(self, outputs: Any, *, run_id: UUID, **kwargs: Any) -> None:
        self._given.pop(run_id, None)

    # LangChain runs a coroutine to its end under sync callers too.
    async def on_chain_error(self, error: BaseException, *, run_id: UUID, **kwargs: Any) -> None:
        message_id = self._given.pop(run_id, None)
        if message_id is None or not isinstance(error, ValueError):
            return
        engine, request = _answers.pop(message_id, (None, None))
        found = None if engine is None else engine()
        if found is not None and request is not None:
            await found.areject(request)


# The hook takes its handler from a context variable; this one is in every context.
_steps: Final[ContextVar[Any]] = ContextVar(
    "langchain_llm_cache_mem_steps",
    default=_Steps(),  # noqa: B039
)
_watched = False


def watch_steps() -> None:
    """From now on, let all steps of the process be seen."""
    global _watched
    if not _watched:
        _watched = True
        register_configure_hook(_steps, inheritable=False)
