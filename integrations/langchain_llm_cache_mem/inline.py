"""A callback handler that LangChain calls at once also under asyncio, and not in a thread."""

import sys

from langchain_core.callbacks import BaseCallbackHandler

__all__ = ["InlineHandler"]


class InlineHandler(BaseCallbackHandler):
    """Hides from langchain-core where a plain LLM starts under asyncio that it is inline: there,
    one inline handler makes it leave out every handler that is not."""

    @property
    def run_inline(self) -> bool:  # type: ignore[override]  # an attribute there
        frame = sys._getframe(1)
        if frame.f_code.co_name == "<listcomp>" and frame.f_back is not None:  # before Python 3.12
            frame = frame.f_back
        return frame.f_code.co_name != "on_llm_start"
