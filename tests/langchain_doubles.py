"""Models that count their calls, in the ways in which users write such models."""

from collections.abc import AsyncIterator, Iterator
from functools import cached_property
from typing import Any

from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessage, AIMessageChunk, BaseMessage
from langchain_core.outputs import ChatGeneration, ChatGenerationChunk, ChatResult

USAGE = {"input_tokens": 10, "output_tokens": 5, "total_tokens": 15}


class Counting(BaseChatModel):
    """Answers with what was asked and how many calls were made before; identified as ChatOpenAI and
    others are, by its fields."""

    model_name: str = "gpt-4o-mini"
    base_url: str = "http://one"
    temperature: float = 0.0
    with_usage: bool = True
    fails: int = 0

    def model_post_init(self, context: Any) -> None:
        super().model_post_init(context)
        assert not self._calls  # made now, so that copies of the model share it

    @cached_property  # which is no setting
    def _calls(self) -> list[list[BaseMessage]]:
        return []

    @property
    def calls(self) -> int:
        return len(self._calls)

    @property
    def _llm_type(self) -> str:
        return "counting"

    @property
    def _identifying_params(self) -> dict[str, Any]:
        return {
            "model_name": self.model_name,
            "base_url": self.base_url,
            "temperature": self.temperature,
        }

    def _answer(self, messages: list[BaseMessage]) -> AIMessage:
        self._calls.append(messages)
        if self.calls <= self.fails:
            raise ConnectionError("the provider is down")
        return AIMessage(
            f"{messages[-1].text} #{self.calls}",
            usage_metadata=USAGE if self.with_usage else None,
            response_metadata={
                "model_name": self.model_name,
                "id": f"chatcmpl-{self.calls}",
                "finish_reason": "stop",
            },
        )

    def _generate(
        self, messages: list[BaseMessage], stop: Any = None, run_manager: Any = None, **kwargs: Any
    ) -> ChatResult:
        return ChatResult(
            generations=[ChatGeneration(message=self._answer(messages))],
            llm_output={"system_fingerprint": "fp_1"},
        )

    def bind_tools(self, tools: Any, **kwargs: Any) -> Any:
        from langchain_core.utils.function_calling import convert_to_openai_tool

        return self.bind(tools=[convert_to_openai_tool(tool) for tool in tools], **kwargs)


class Streaming(Counting):
    """The same, word by word, sync and async."""

    breaks: bool = False

    def _stream(
        self, messages: list[BaseMessage], stop: Any = None, run_manager: Any = None, **kwargs: Any
    ) -> Iterator[ChatGenerationChunk]:
        answer = self._answer(messages)
        for word in answer.text.split(" "):
            yield ChatGenerationChunk(message=AIMessageChunk(f"{word} "))
        if self.breaks:
            raise ConnectionError("the line went dead")
        yield ChatGenerationChunk(
            message=AIMessageChunk(
                "",
                usage_metadata=answer.usage_metadata,
                response_metadata=answer.response_metadata,
                chunk_position="last",
            )
        )

    async def _astream(
        self, messages: list[BaseMessage], stop: Any = None, run_manager: Any = None, **kwargs: Any
    ) -> AsyncIterator[ChatGenerationChunk]:
        for chunk in self._stream(messages):
            yield chunk
