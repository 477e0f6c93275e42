"""Which model is asking: LangChain hands a cache two strings, and the model is in the frames of its
own call."""

import logging
import sys
from collections.abc import Mapping, Sequence
from types import CodeType, FrameType
from typing import Any, Final, NamedTuple

from langchain_core.language_models import BaseChatModel, BaseLLM, llms
from langchain_core.messages import BaseMessage

from llm_cache_mem._util.reprs import without_content

__all__ = ["Call", "calling", "check_langchain", "report_change"]

_log = logging.getLogger(__name__)


@without_content
class Call(NamedTuple):
    """A call of *model*, as LangChain was asked to make it. *run_manager* may be None.

    *number* is that of no other call under way. *manager* has the tags and the metadata of its
    RunnableConfig; it may be None.
    """

    number: int
    model: Any
    prompt: str | Sequence[BaseMessage]
    stop: Any
    kwargs: Mapping[str, Any]
    run_manager: Any
    manager: Any


def _code_of(holder: Any, name: str) -> CodeType | None:
    return getattr(getattr(holder, name, None), "__code__", None)


_CHAT: Final = ("_generate_with_cache", "_agenerate_with_cache")
_CHAT_CODES: Final = frozenset(_code_of(BaseChatModel, name) for name in _CHAT) - {None}
_LLM_CODES: Final = frozenset(_code_of(BaseLLM, name) for name in ("generate", "agenerate"))
_PROMPTS: Final = ("get_prompts", "aget_prompts", "update_cache", "aupdate_cache")
_PROMPT_CODES: Final = frozenset(_code_of(llms, name) for name in _PROMPTS) - {None}
_FARTHEST: Final = 8
"""How many frames up to look: a cache of the user's own may stand between."""


def calling(prompt: str, llm_string: str) -> Call | None:
    """The call that is looking *prompt* up, or storing its answer; None if it cannot be seen."""
    frame = sys._getframe(1)
    for _ in range(_FARTHEST):
        found = _call_in(frame, prompt, llm_string)
        if found is not None or frame.f_back is None:
            return found
        frame = frame.f_back
    return None


def _call_in(frame: FrameType, prompt: str, llm_string: str) -> Call | None:
    if frame.f_code in _CHAT_CODES:
        seen = frame.f_locals
        if seen.get("prompt") == prompt and seen.get("llm_string") == llm_string:
            return _call(frame, seen, seen.get("messages"))
    if frame.f_code in _PROMPT_CODES and frame.f_back is not None:
        seen, outer = frame.f_locals, frame.f_back
        if outer.f_code in _LLM_CODES and seen.get("llm_string") == llm_string:
            return _call(outer, outer.f_locals, prompt)
    return None


def _call(frame: FrameType, seen: Mapping[str, Any], prompt: Any) -> Call | None:
    model, kwargs = seen.get("self"), seen.get("kwargs")
    if model is None or prompt is None or not isinstance(kwargs, Mapping):
        return None
    run_manager = seen.get("run_manager")
    manager = _manager_of_prompt(seen, prompt) if run_manager is None else run_manager
    return Call(id(frame), model, prompt, seen.get("stop"), kwargs, run_manager, manager)


def _manager_of_prompt(seen: Mapping[str, Any], prompt: Any) -> Any:
    """The callback manager of one of the prompts that a plain LLM is asked at once."""
    managers, prompts = seen.get("callback_managers"), seen.get("prompts")
    if not isinstance(managers, list) or not isinstance(prompts, list) or prompt not in prompts:
        return None
    place = prompts.index(prompt)
    same = [manager for text, manager in zip(prompts, managers, strict=False) if text == prompt]
    # of equal prompts with different configs it cannot be told which is asking
    alike = all(_said(other) == _said(managers[place]) for other in same)
    return managers[place] if alike else None


def _said(manager: Any) -> Any:
    return getattr(manager, "tags", None), getattr(manager, "metadata", None)


_NEEDED: Final = (
    (BaseChatModel, _CHAT, {"self", "messages", "stop", "run_manager", "kwargs", "prompt"}),
    (BaseLLM, ("generate", "agenerate"), {"self", "stop", "kwargs"}),
    (llms, _PROMPTS, {"llm_string"}),
)
"""Which functions of langchain-core ``calling`` looks for, and which variables in them."""
_logged = False


def check_langchain() -> None:
    """Log once if this langchain-core calls its cache from where ``calling`` does not look."""
    missing = []
    for holder, names, needed in _NEEDED:
        for name in names:
            code = _code_of(holder, name)
            if code is None or not needed <= {*code.co_varnames}:
                missing.append(name)
    if missing:
        report_change(f"it has no {', '.join(missing)} of the form that is known")


def report_change(what: str) -> None:
    """Log once that langchain-core has changed where LLMCacheMem looks into it."""
    global _logged
    if not _logged:
        _logged = True
        _log.warning(
            "LLMCacheMem does not support this version of langchain-core (%s): it cannot see which"
            " model is asking, or cannot share concurrent calls; cached(model, cache) can",
            what,
        )
