"""Probes of the key: what must tell two requests apart, and what must not."""

import json
from typing import Any

from benchmarks.probes.contestant import Bench, Cannot, Contestant
from benchmarks.probes.provider import Provider
from benchmarks.probes.registry import probe

__all__ = ["BASE", "apart", "text_of", "user"]

GROUP = "The key"
SYSTEM = {"role": "system", "content": "You are a lawyer."}


def user(text: Any) -> dict[str, Any]:
    return {"role": "user", "content": text}


BASE: dict[str, Any] = {"model": "gpt-4o-mini", "messages": [SYSTEM, user("May I copy it?")]}


def request(**changes: Any) -> dict[str, Any]:
    """BASE with *changes*, built anew, as programs do."""
    made: dict[str, Any] = json.loads(json.dumps(BASE))
    made.update(changes)
    return made


def text_of(peer: Contestant, asked: dict[str, Any]) -> Any:
    """The text that *peer* answers."""
    return peer.text(peer.ask(**asked))


def opened(bench: Bench, **settings: Any) -> Contestant:
    """The contestant; Cannot if its keys are the caller's."""
    if not bench.contestant.keyed:
        raise Cannot("the caller writes the key")
    return bench.open(**settings)


def first_answer(peer: Contestant, asked: dict[str, Any]) -> Any:
    """The text for *asked*, asked twice; Cannot if it is not answered, or not from the cache the
    second time."""
    try:
        text = text_of(peer, asked)
    except Cannot:
        raise
    except Exception as exc:
        raise Cannot(f"this request cannot be sent through it ({type(exc).__name__})") from exc
    if text_of(peer, asked) != text:
        raise Cannot("keeps no answer to such a request")
    return text


def apart(bench: Bench, *requests: dict[str, Any], served: str = "") -> str | None:
    """Wrong if any of *requests* is answered with what another was."""
    peer = opened(bench)
    texts = [first_answer(peer, requests[0])]
    for asked in requests[1:]:
        text = text_of(peer, asked)
        if text in texts:
            if _sent_alike(bench, requests[texts.index(text)], asked):
                raise Cannot("sends the same for both")
            return served or "the answer to the one is served for the other"
        texts.append(text)
    return None


def _sent_alike(bench: Bench, one: dict[str, Any], other: dict[str, Any]) -> bool:
    """Whether the contestant, its cache out of the way, sends the same to the same server for
    both."""
    sent = []
    for asked in (one, other):
        with_cold_cache = bench.cold()
        provider = Provider()
        bench.providers.append(provider)
        try:
            text_of(with_cold_cache, {**asked, "base_url": provider.url})
        except Exception:  # noqa: BLE001 - then it does not send the same
            return False
        sent.append(json.dumps(provider.bodies, sort_keys=True))
    return one.get("base_url") == other.get("base_url") and sent[0] == sent[1]


def together(
    bench: Bench, *requests: dict[str, Any], missed: str = "a second call is made"
) -> str | None:
    """Wrong if *requests*, which are the same to the provider, make more than one call."""
    peer = opened(bench)
    text = first_answer(peer, requests[0])
    for asked in requests[1:]:
        if text_of(peer, asked) != text:
            return missed
    return None


@probe(GROUP, "another system prompt is another request", "GPTCache default key; peers, finding 2")
def system_prompt(bench: Bench) -> str | None:
    pirate = [{"role": "system", "content": "You are a pirate."}, user("May I copy it?")]
    return apart(
        bench,
        request(),
        request(messages=pirate),
        served="the lawyer's answer is served to the pirate",
    )


@probe(
    GROUP,
    "an earlier turn counts, not only the last message",
    "GPTCache default key; peers, finding 2",
)
def earlier_turn(bench: Bench) -> str | None:
    def talk(about: str) -> list[dict[str, Any]]:
        return [user(about), {"role": "assistant", "content": "I see."}, user("How old is it?")]

    return apart(
        bench,
        request(messages=talk("My dog")),
        request(messages=talk("My house")),
        served="the dog's age is served for the house's",
    )


@probe(GROUP, "another model is another request", "AutoGen #8211, lm-eval #4065, GPTCache")
def model(bench: Bench) -> str | None:
    return apart(bench, request(), request(model="gpt-4.1"))


@probe(
    GROUP, "a sampling parameter counts (top_p)", "Agno, GPTCache; instructor #2585, lm-eval #3897"
)
def sampling(bench: Bench) -> str | None:
    return apart(bench, request(top_p=1.0), request(top_p=0.1))


@probe(GROUP, "the token limit counts", "Agno, GPTCache; peers, finding 2")
def token_limit(bench: Bench) -> str | None:
    return apart(bench, request(max_tokens=16), request(max_tokens=1600))


@probe(GROUP, "reasoning_effort counts", "LiteLLM #9844")
def reasoning_effort(bench: Bench) -> str | None:
    return apart(
        bench,
        request(model="o4-mini", reasoning_effort="low"),
        request(model="o4-mini", reasoning_effort="high"),
    )


@probe(
    GROUP,
    "a parameter of the provider's own counts (num_ctx)",
    "LiteLLM #42400, PR 25673: keys from an allow-list",
)
def provider_parameter(bench: Bench) -> str | None:
    return apart(
        bench, request(extra_body={"num_ctx": 2048}), request(extra_body={"num_ctx": 32768})
    )


@probe(GROUP, "n counts", "BetterDB; peers, finding 2")
def choices(bench: Bench) -> str | None:
    return apart(bench, request(n=1), request(n=2))


@probe(GROUP, "the response format counts", "allow-list keys; peers, finding 2")
def response_format(bench: Bench) -> str | None:
    def schema(kind: str) -> dict[str, Any]:
        body = {
            "type": "object",
            "properties": {"age": {"type": kind}},
            "required": ["age"],
            "additionalProperties": False,
        }
        return {
            "type": "json_schema",
            "json_schema": {"name": "person", "strict": True, "schema": body},
        }

    return apart(
        bench, request(response_format=schema("integer")), request(response_format=schema("string"))
    )


def tool(description: str, **schema: Any) -> dict[str, Any]:
    parameters = {
        "type": "object",
        "properties": {"id": schema or {"type": "integer"}},
        "required": ["id"],
    }
    return {
        "type": "function",
        "function": {"name": "look_up", "description": description, "parameters": parameters},
    }


@probe(
    GROUP,
    "the definition of a tool counts, not only that there is one",
    "Agno: has_tools; agenticstack-cache: names",
)
def tools(bench: Bench) -> str | None:
    return apart(
        bench,
        request(tools=[tool("Looks up an order.")]),
        request(tools=[tool("Looks up a user.", type="string")]),
    )


@probe(GROUP, "tool_choice counts", "AutoGen #8211")
def tool_choice(bench: Bench) -> str | None:
    tools = [tool("Looks up an order.")]
    return apart(
        bench,
        request(tools=tools, tool_choice="auto"),
        request(tools=tools, tool_choice="required"),
    )


@probe(GROUP, "the tool calls in a conversation count", "Agno; peers, finding 2")
def tool_calls(bench: Bench) -> str | None:
    def talk(arguments: str) -> list[dict[str, Any]]:
        call = {
            "id": "call_1",
            "type": "function",
            "function": {"name": "look_up", "arguments": arguments},
        }
        said = {"role": "assistant", "content": None, "tool_calls": [call]}
        return [
            user("Look it up."),
            said,
            {"role": "tool", "tool_call_id": "call_1", "content": "done"},
        ]

    return apart(bench, request(messages=talk('{"id": 1}')), request(messages=talk('{"id": 2}')))


@probe(GROUP, "another image is another request", "memollm, Agno; peers, finding 2")
def image(bench: Bench) -> str | None:
    def look(pixels: str) -> list[dict[str, Any]]:
        picture = {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{pixels}"}}
        return [user([{"type": "text", "text": "What is this?"}, picture])]

    cat = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
    dog = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mP8z8BQDwAEhQGAhKmMIQAAAABJRU5ErkJggg=="
    return apart(
        bench,
        request(messages=look(cat)),
        request(messages=look(dog)),
        served="one image's answer is served for another",
    )


@probe(GROUP, "another base URL is another server", "LiteLLM, DSPy PR 10006; peers, finding 2")
def base_url(bench: Bench) -> str | None:
    return apart(
        bench,
        request(),
        request(base_url=bench.second_provider().url),
        served="the first server's answer is served for another",
    )


@probe(GROUP, "letter case and white space count", "memollm, llm-response-cache; peers, finding 2")
def white_space(bench: Bench) -> str | None:
    program = "if x:\n    y()\n    z()"
    return apart(
        bench,
        *(
            request(messages=[user(text)])
            for text in (program, program.replace("    z", "z"), program.upper())
        ),
        served="differently indented code, or another case, gets the same answer",
    )


@probe(
    GROUP,
    "no two requests have one key by concatenation",
    "LiteLLM caching.py; gemini-cli PR 9542; param20h #653",
)
def concatenation(bench: Bench) -> str | None:
    pairs = [
        ({"user": "a", "stop": "b"}, {"user": "astop: b"}),
        ({"user": "a", "stop": ["b"]}, {"user": "astop: ['b']"}),
        ({"stop": ["a", "b"]}, {"stop": ["a', 'b"]}),
        ({"user": "a:stop:b"}, {"user": "a", "stop": "b"}),
        ({"user": "a", "seed": 1}, {"user": "a:seed:1"}),
    ]
    for one, other in pairs:
        wrong = apart(bench, request(**one), request(**other))
        if wrong:
            return f"{_short(one)} answers {_short(other)}"
    return None


@probe(
    GROUP,
    '1, true and "1" are three values',
    "LiteLLM, diskcache; json.dumps and dict keys; reliability 3f",
)
def number_types(bench: Bench) -> str | None:
    wrong = []
    for name, values in (("seed", (1, "1")), ("logprobs", (True, 1)), ("logprobs", ("true", True))):
        one, other = ({name: value} for value in values)
        try:
            if apart(bench, request(**one), request(**other)):
                wrong.append(f"{_short(one)} answers {_short(other)}")
        except Cannot:
            continue  # its SDK takes no such value, or sends both alike
    tools = [[tool("Looks up.", enum=[value])] for value in (1, True, "1")]
    if apart(bench, *(request(tools=each) for each in tools)):
        wrong.append('so do tools that differ in enum [1], [true], ["1"]')
    return "; ".join(wrong) or None


def _short(params: dict[str, Any]) -> str:
    return ", ".join(f"{name}={json.dumps(value)}" for name, value in params.items())


@probe(GROUP, "parameters in another order are the same request", "LiteLLM #40128")
def parameter_order(bench: Bench) -> str | None:
    params = {"max_tokens": 16, "top_p": 0.5, "seed": 7, "user": "u"}
    return together(bench, request(**params), request(**dict(reversed(params.items()))))


@probe(
    GROUP,
    "fields of a message or tool in another order are the same request",
    "LiteLLM #40128; peers, finding 2",
)
def field_order(bench: Bench) -> str | None:
    def turned(value: Any) -> Any:
        if isinstance(value, dict):
            return {name: turned(each) for name, each in reversed(value.items())}
        return [turned(each) for each in value] if isinstance(value, list) else value

    asked = request(tools=[tool("Looks up an order.")])
    return together(
        bench,
        asked,
        {**asked, "messages": turned(asked["messages"]), "tools": turned(asked["tools"])},
    )


class Message:
    """A message object as SDKs hand them out and take them back: data, under an object of its
    own."""

    def __init__(self, content: str) -> None:
        self.role, self.content = "assistant", content

    def wire(self) -> dict[str, str]:
        return {"role": self.role, "content": self.content}


def _said(content: str) -> Any:
    try:
        from openai.types.chat import ChatCompletionMessage
    except ModuleNotFoundError:
        raise Cannot("needs the openai SDK beside it") from None
    return ChatCompletionMessage(role="assistant", content=content)


def _with_said(content: str) -> dict[str, Any]:
    return request(messages=[user("Is it?"), _said(content), user("Really?")])


@probe(
    GROUP,
    "an SDK's message object in a conversation counts by its content",
    "DSPy: a list of pydantic objects; peers, finding 2",
)
def sdk_objects(bench: Bench) -> str | None:
    peer = opened(bench)
    try:
        first = text_of(peer, _with_said("Yes."))
    except Cannot:
        raise
    except Exception as exc:
        raise Cannot(f"takes no SDK objects as messages ({type(exc).__name__})") from exc
    if text_of(peer, _with_said("No.")) == first:
        return "another message gets the same answer"
    return (
        None
        if text_of(peer, _with_said("Yes.")) == first
        else "such conversations are never answered from the cache, silently"
    )


@probe(
    GROUP,
    "the address of an object is no part of a key",
    "LangChain: str() of tools; reliability 3f: id reuse",
)
def object_address(bench: Bench) -> str | None:
    """Objects that die are replaced by others at the same address: with str() in the key, those get
    the dead ones' answers."""
    peer = opened(bench)
    seen: dict[int, Any] = {}
    for number in range(40):
        message = Message(f"I said {number}.")
        address = id(message)
        try:
            text = text_of(peer, request(messages=[user("Is it?"), message, user("Really?")]))
        except Cannot:
            raise
        except Exception as exc:
            raise Cannot(f"takes no objects as messages ({type(exc).__name__})") from exc
        if text == seen.get(address):
            return "another object's answer is served, for it lived at the same address"
        if text in seen.values():
            return "another object's answer is served"
        seen[address] = text
    return None


@probe(GROUP, "a new API key keeps the hits", "instructor #2585 and after: auth in the key")
def key_rotation(bench: Bench) -> str | None:
    return together(
        bench,
        request(api_key="sk-old"),
        request(api_key="sk-new"),
        missed="every answer is lost with the old key",
    )


@probe(
    GROUP,
    "another timeout is the same request",
    "callm's list of what is no part of a request; peers, 2",
)
def timeout(bench: Bench) -> str | None:
    return together(bench, request(timeout=31), request(timeout=62))


@probe(GROUP, "two namespaces share nothing", "LiteLLM #29955, #19575; reliability 1.3")
def namespaces(bench: Bench) -> str | None:
    one, other = opened(bench, namespace="acme"), opened(bench, namespace="globex")
    first = first_answer(one, request())
    return "one tenant gets the other's answer" if text_of(other, request()) == first else None


@probe(
    GROUP, "a conversation of five messages is cached", "LiteLLM max_messages=4; peers, finding 4"
)
def long_conversation(bench: Bench) -> str | None:
    turns = [
        user("One?"),
        {"role": "assistant", "content": "1"},
        user("Two?"),
        {"role": "assistant", "content": "2"},
        user("Three?"),
    ]
    peer = opened(bench)
    first = text_of(peer, request(messages=turns))
    return (
        None
        if text_of(peer, request(messages=turns)) == first
        else "it is called for each time, without a word"
    )
