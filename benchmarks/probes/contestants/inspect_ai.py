"""inspect_ai's cache under its ``generate``, as its tasks call it."""

import asyncio
import functools
import json
import os
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from inspect_ai.model import (
    CachePolicy,
    ChatCompletionChoice,
    ChatMessageAssistant,
    ChatMessageSystem,
    ChatMessageTool,
    ChatMessageUser,
    ContentImage,
    ContentText,
    GenerateConfig,
    ModelAPI,
    ModelOutput,
    ResponseSchema,
    get_model,
    modelapi,
)
from inspect_ai.tool import ToolCall, ToolInfo

from benchmarks.probes.contestant import Cannot, Looped
from benchmarks.probes.provider import complete

__all__ = ["InspectAI"]

PARAMETERS = {"top_p", "max_tokens", "seed", "logprobs", "reasoning_effort", "extra_body"}
ELSEWHERE = {
    "stop": "stop_seqs",
    "n": "num_choices",
    "response_format": "response_schema",
}  # its own names
THREADS = ThreadPoolExecutor(64)  # none is started before a probe's process asks for one
STOPS = {"length": "max_tokens", "content_filter": "content_filter"}


@modelapi(name="loopback")
class Loopback(ModelAPI):
    """The provider of these probes as one of its model APIs."""

    async def generate(
        self, input: Any, tools: Any, tool_choice: Any, config: GenerateConfig
    ) -> ModelOutput:
        body: dict[str, Any] = {
            name: value for name in PARAMETERS if (value := getattr(config, name)) is not None
        }
        body.update(
            (name, value)
            for name, its in ELSEWHERE.items()
            if (value := getattr(config, its)) is not None
        )
        if "response_format" in body:
            body["response_format"] = body["response_format"].model_dump(exclude_none=True)
        if tools:
            body["tools"] = [
                {"type": "function", "function": tool.model_dump(exclude_none=True)}
                for tool in tools
            ]
            body["tool_choice"] = str(tool_choice)
        call = functools.partial(
            complete,
            base_url=str(self.base_url),
            model=self.model_name,
            messages=list(map(_wire, input)),
            **body,
        )
        answer = await asyncio.get_running_loop().run_in_executor(THREADS, call)
        return ModelOutput(
            model=self.model_name, choices=[_choice(each) for each in answer["choices"]]
        )


class InspectAI(Looped):
    name = "inspect_ai"
    configured = (
        "`get_model(...).generate(..., cache=CachePolicy(expiry=...))`, `INSPECT_CACHE_DIR`, with a"
        " model API of these probes: its own for OpenAI wants openai 3.4, and litellm here openai 2"
    )
    shared = "file"
    expires = namespaced = True
    packages = ("inspect-ai",)

    def prepare(self) -> None:
        self.policy = CachePolicy(
            expiry="1W" if self.ttl is None else f"{int(self.ttl)}s",
            scopes={"tenant": self.namespace} if self.namespace else {},
        )

    async def aask(self, **request: Any) -> Any:
        os.environ["INSPECT_CACHE_DIR"] = str(self.folder / "inspect")
        model = get_model(
            f"loopback/{request.pop('model')}",
            base_url=request.pop("base_url", self.base_url),
            api_key=request.pop("api_key", "sk-probe"),
            memoize=False,
        )
        messages = [_message(each) for each in request.pop("messages")]
        tools = [ToolInfo(**each["function"]) for each in request.pop("tools", ())]
        choice = request.pop("tool_choice", None)
        choice = "any" if choice == "required" else choice
        return await model.generate(messages, tools, choice, _config(request), cache=self.policy)

    def text(self, answer: Any) -> Any:
        texts = [choice.message.text for choice in answer.choices]
        return texts[0] if len(texts) == 1 else texts

    def spoil(self, answer: Any) -> None:
        answer.choices[0].message.content = "spoilt"


def _config(request: dict[str, Any]) -> GenerateConfig:
    """Parameters under its names; those that it has none for go into the body as they are."""
    fields: dict[str, Any] = {"max_retries": 0}
    for name, value in request.items():
        if name == "stop":
            value = [value] if isinstance(value, str) else value
        if name == "response_format":
            value = ResponseSchema(
                name=value["json_schema"]["name"], json_schema=value["json_schema"]["schema"]
            )
        if name in PARAMETERS | {"timeout"} | set(ELSEWHERE):
            fields[ELSEWHERE.get(name, name)] = value
        else:
            fields.setdefault("extra_body", {})[name] = value
    return GenerateConfig(**fields)


def _message(each: Any) -> Any:
    if not isinstance(each, dict):
        raise Cannot("has message objects of its own")
    role, content = each["role"], each["content"]
    if role == "system":
        return ChatMessageSystem(content=content)
    if role == "tool":
        return ChatMessageTool(content=content, tool_call_id=each["tool_call_id"])
    if role == "assistant":
        calls = [_call(call) for call in each.get("tool_calls", ())]
        return ChatMessageAssistant(content=content or "", tool_calls=calls or None)
    if isinstance(content, list):
        content = [
            (
                ContentText(text=part["text"])
                if part["type"] == "text"
                else ContentImage(image=part["image_url"]["url"])
            )
            for part in content
        ]
    return ChatMessageUser(content=content)


def _wire(message: Any) -> dict[str, Any]:
    """An OpenAI message of one of its own."""
    content = message.content
    if isinstance(content, list):
        content = [
            (
                {"type": "text", "text": part.text}
                if part.type == "text"
                else {"type": "image_url", "image_url": {"url": part.image}}
            )
            for part in content
        ]
    made = {"role": message.role, "content": content}
    if getattr(message, "tool_calls", None):
        made["tool_calls"] = [
            {
                "id": call.id,
                "type": "function",
                "function": {"name": call.function, "arguments": json.dumps(call.arguments)},
            }
            for call in message.tool_calls
        ]
    if message.role == "tool":
        made["tool_call_id"] = message.tool_call_id
    return made


def _choice(choice: dict[str, Any]) -> ChatCompletionChoice:
    said = choice["message"]
    return ChatCompletionChoice(
        message=ChatMessageAssistant(content=said["refusal"] or said["content"], source="generate"),
        stop_reason=STOPS.get(choice["finish_reason"], "stop"),
    )


def _call(call: dict[str, Any]) -> ToolCall:
    function = call["function"]
    return ToolCall(
        id=call["id"], function=function["name"], arguments=json.loads(function["arguments"])
    )
