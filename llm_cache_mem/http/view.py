"""The Chat Completions view of an HTTP request, whatever the provider's protocol: what key
functions, names in ``ignore=``, explanations and stored requests see. Default keys are not made of
it.

Requests that differ have views that differ. What has no Chat Completions form stays in its place as
it is; a request that mixes the forms of two APIs stays so as a whole; and ``http.source`` names the
protocol and the fields that were moved.
"""

import re
from collections.abc import Callable, Mapping
from typing import Any, Final, NamedTuple

from llm_cache_mem.http import protocols as of
from llm_cache_mem.keys.chat_form import function_tool

__all__ = ["PROTOCOLS", "Protocol", "view"]


class Protocol(NamedTuple):
    """How the requests of one API differ from those of the Chat Completions API.

    Attributes:
        name: As it stands in ``http.source``.
        path: What the end of the URL's path matches.
        source: What ``http.source`` matches: the field in which messages are.
        turns: Writes the messages, given the params, from which it may take some; None for messages
            that are in another form than this API's.
        system: The field of the system prompt, which becomes the first message.
        content: Writes the content of the system prompt, and what of the field stays, if anything;
            None if it has to stay as it is.
        holder: The field in which the params below stand; "" if that is the request itself.
        params: Params by their names here, with their names in the Chat Completions API.
        tools: Writes the tools, if theirs is another form; None if they have to stay as they are.
    """

    name: str
    path: str
    source: str
    turns: Callable[[list[Any], dict[str, Any]], list[Any] | None]
    system: str = ""
    content: Callable[[Any], tuple[Any, Any] | None] = lambda content: (content, None)
    holder: str = ""
    params: Mapping[str, str] = {}
    tools: Callable[[list[Any]], list[Any] | None] | None = None


def _functions(parameters: str, kind: str | None = None) -> Callable[[list[Any]], list[Any]]:
    """Writes the tools of this *kind*, which are functions with a schema called *parameters*."""

    def write(tools: list[Any]) -> list[Any]:
        return [
            (function_tool(tool, parameters) or tool)
            if type(tool) is dict and tool.get("type") == kind
            else tool
            for tool in tools
        ]

    return write


def _declarations(tools: list[Any]) -> list[Any] | None:
    """Gemini's tools, if they are functions only, and stand in one item."""
    if len(tools) != 1 or type(tools[0]) is not dict or tools[0].keys() != {"functionDeclarations"}:
        return None
    declared = tools[0]["functionDeclarations"]
    if type(declared) is not list:
        return None
    made = [function_tool(tool, "parameters") for tool in declared if type(tool) is dict]
    return None if None in made or not made or len(made) != len(declared) else made


_SAMPLING: Final = {name: name for name in ("temperature", "top_p", "top_k", "seed", "stop")}
_COHERE: Final = {"k": "top_k", "p": "top_p", "stop_sequences": "stop"}

RESPONSES: Final = Protocol(
    "responses",
    r"/responses",
    "input",
    of.responses,
    system="instructions",
    params={"max_output_tokens": "max_completion_tokens"},
    tools=_functions("parameters", "function"),
)
ANTHROPIC: Final = Protocol(
    "anthropic",
    r"/messages(/count_tokens)?",
    "messages",
    of.anthropic,
    system="system",
    params={"stop_sequences": "stop"},
    tools=_functions("input_schema"),
)
GEMINI: Final = Protocol(
    "gemini",
    r"(:|%3A)(generateContent|streamGenerateContent|countTokens)",
    r"contents(?! text| as)",
    of.gemini,
    system="systemInstruction",
    content=of.gemini_system,
    holder="generationConfig",
    params={
        "candidateCount": "n",
        "frequencyPenalty": "frequency_penalty",
        "maxOutputTokens": "max_tokens",
        "presencePenalty": "presence_penalty",
        "seed": "seed",
        "stopSequences": "stop",
        "temperature": "temperature",
        "topK": "top_k",
        "topP": "top_p",
    },
    tools=_declarations,
)
CONVERSE: Final = Protocol(
    "bedrock",
    r"/model/[^/]+/converse(-stream)?",
    "messages",
    of.converse,
    system="system",
    content=of.converse_system,
    holder="inferenceConfig",
    params={
        "maxTokens": "max_tokens",
        "stopSequences": "stop",
        "temperature": "temperature",
        "topP": "top_p",
    },
)
OLLAMA: Final = Protocol(
    "ollama",
    r"/api/(chat|generate)",
    "messages|prompt text",
    of.ollama,
    system="system",
    holder="options",
    params={"num_predict": "max_tokens", **_SAMPLING},
)

PROTOCOLS: Final = (
    RESPONSES,
    ANTHROPIC,
    GEMINI,
    CONVERSE,
    OLLAMA,
    Protocol("cohere", "/v2/chat", "messages", lambda said, params: said, params=_COHERE),
    Protocol("cohere-v1", "/v1/chat", "message text", of.cohere, "preamble", params=_COHERE),
)
"""The protocols that are not Chat Completions. What is of none of them stays as it is."""
_TABLE: Final = tuple(
    (re.compile(rf"(?:{one.path})/?$"), re.compile(one.source), one) for one in PROTOCOLS
)
_IN_THE_MODELS_FORM: Final = re.compile(
    r"/model/[^/]+/invoke(-with-response-stream)?$|(:|%3A)(rawPredict|streamRawPredict)$"
)


def view(messages: Any, params: Mapping[str, Any]) -> tuple[Any, Mapping[str, Any]]:
    """The *messages* and *params* of ``request.read`` as the Chat Completions API has them."""
    source = params.get("http.source", "messages")
    protocol = _protocol_of(params, source)
    if protocol is None or type(messages) is not list or _has_chat_form(params, protocol):
        return messages, params
    seen = dict(params)
    written = protocol.turns(messages, seen)
    if written is None:
        return messages, params
    system = seen.get(protocol.system)
    if system is not None and (read := protocol.content(system)) is not None:
        content, rest = read
        del seen[protocol.system]
        seen.update({protocol.system: rest} if rest else {})
        written = [{"role": "system", "content": content}, *written]
    _rename(seen, protocol)
    moved = sorted(params.keys() - seen.keys())
    if protocol.tools is not None and type(tools := seen.get("tools")) is list:
        seen["tools"] = protocol.tools(tools) or tools
    return written, {**seen, "http.source": f"{protocol.name}: {' '.join([source, *moved])}"}


def _protocol_of(params: Mapping[str, Any], source: str) -> Protocol | None:
    path = str(params.get("http.path"))
    for ends, reads, protocol in _TABLE:
        if ends.search(path) and reads.match(source):
            return protocol
    if _IN_THE_MODELS_FORM.search(path) and source.startswith("messages"):
        if "anthropic_version" in params:
            return ANTHROPIC
        if "inferenceConfig" in params or "schemaVersion" in params:
            return CONVERSE
    return None


def _has_chat_form(params: Mapping[str, Any], protocol: Protocol) -> bool:
    """Whether *params* hold anything that the view would write."""
    written = {to for name, to in protocol.params.items() if protocol.holder or to != name}
    if protocol.holder:
        written |= protocol.params.keys()
    tools = params.get("tools")
    listed = tools if protocol.tools is not None and type(tools) is list else ()
    return not written.isdisjoint(params) or any(
        type(tool) is dict and "function" in tool for tool in listed
    )


def _rename(seen: dict[str, Any], protocol: Protocol) -> None:
    """Put the params where the Chat Completions API has them, under its names."""
    holder = seen.get(protocol.holder) if protocol.holder else seen
    if type(holder) is not dict:
        return
    found = {name: holder[name] for name in protocol.params if name in holder}
    rest = {name: value for name, value in holder.items() if name not in found}
    if protocol.holder and found:
        seen.pop(protocol.holder)
        seen.update({protocol.holder: rest} if rest else {})
    for name in found if not protocol.holder else ():
        del seen[name]
    seen.update({protocol.params[name]: value for name, value in found.items()})
