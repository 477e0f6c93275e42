"""What the provider SDKs return comes back as what they returned, here and in another process."""

import json
import subprocess
import sys
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from llm_cache_mem.values.classes import register
from llm_cache_mem.values.payload import Payload
from llm_cache_mem.values.tagged import to_tree

anthropic = pytest.importorskip("anthropic")
openai = pytest.importorskip("openai")
httpx2 = pytest.importorskip("httpx2")
pydantic = pytest.importorskip("pydantic")

pytestmark = pytest.mark.filterwarnings(
    "ignore"
)  # of the SDKs, about models that are no longer sold

APP_MODELS = """
import pydantic

class Address(pydantic.BaseModel):
    city: str

class Event(pydantic.BaseModel):
    name: str
    where: Address
"""
READ_BACK = """
import json, sys
import anthropic, openai
sys.path.insert(0, sys.argv[1])
import app_models
from llm_cache_mem.values.payload import Payload
from llm_cache_mem.values.classes import register
register(app_models.Event)
before = set(sys.modules)
for line in open(sys.argv[2], "rb"):
    payload = Payload.from_json(line.rstrip(b"\\n"))
    value = payload.decode()
    assert Payload.of(value).json() == line.rstrip(b"\\n"), line[:200]
    print(type(value).__module__, type(value).__name__)
assert not {name for name in set(sys.modules) - before if name.split(".")[0] in ("anthropic", "openai")}
"""


class Replayed:
    """Both SDKs, talking to recorded answers instead of a network."""

    def __init__(self) -> None:
        self.body, self.content_type = b"", ""
        client = httpx2.Client(transport=httpx2.MockTransport(self._answer))
        self.openai = openai.OpenAI(
            api_key="none", base_url="http://recorded/v1", http_client=client, max_retries=0
        )
        self.anthropic = anthropic.Anthropic(
            api_key="none", base_url="http://recorded", http_client=client, max_retries=0
        )

    def _answer(self, request: Any) -> Any:
        headers = {
            "content-type": self.content_type,
            "x-request-id": "req_1",
            "request-id": "req_2",
        }
        return httpx2.Response(200, content=self.body, headers=headers)

    def ask(self, row: dict[str, Any]) -> Any:
        """What the SDK makes of a recorded answer: an object, a list of stream events, or None when
        no SDK here speaks it."""
        self.body = row["response"].get("body", "").encode()
        streamed = self.body[:1] not in (b"{", b"[")
        self.content_type = "text/event-stream" if streamed else "application/json"
        call = self._call(row["provider"], row["endpoint"])
        if call is None:
            return None
        answer = call(**({"stream": True} if streamed else {}))
        return list(answer) if streamed else answer

    def _call(self, provider: str, endpoint: str) -> Callable[..., Any] | None:
        messages: Any = [{"role": "user", "content": "x"}]
        calls = {
            "chat.completions": lambda **more: self.openai.chat.completions.create(
                model="m", messages=messages, **more
            ),
            "responses": lambda **more: self.openai.responses.create(model="m", input="x", **more),
            "completions": lambda **more: self.openai.completions.create(
                model="m", prompt="x", **more
            ),
            "embeddings": lambda **more: self.openai.embeddings.create(
                model="m", input="x", **more
            ),
            "moderations": lambda **more: self.openai.moderations.create(input="x", **more),
            "messages": lambda **more: self.anthropic.messages.create(
                model="m", messages=messages, max_tokens=9, **more
            ),
            "beta": lambda **more: self.anthropic.beta.messages.create(
                model="m", messages=messages, max_tokens=9, **more
            ),
        }
        return (
            None if provider in ("gemini", "vertex", "voyage", "bedrock") else calls.get(endpoint)
        )


def recorded(folder: Path) -> Iterator[dict[str, Any]]:
    with (folder / "real_interactions.jsonl").open(encoding="utf-8") as lines:
        for line in lines:
            row = json.loads(line)
            if row["response"]["status"] == 200:
                yield row
                if row["endpoint"] == "messages":
                    yield {**row, "endpoint": "beta"}


@pytest.fixture(scope="module")
def sdk_answers(shared_data: Path) -> list[Any]:
    """Every recorded 200 answer that an SDK here can read: objects, and lists of the events of a
    stream."""
    sdks, found = Replayed(), []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for row in recorded(shared_data):
            try:
                answer = sdks.ask(row)
            # two recordings break off with an error in mid-stream, as they did when they were live
            except openai.APIError:
                continue
            if answer is not None:
                found.append(answer)
    return found


def equal(one: Any, other: Any) -> bool:
    """Equality, class by class, of everything an SDK object holds: fields, extras, what was set,
    the request id."""
    if type(one) is not type(other):
        return False
    if isinstance(one, pydantic.BaseModel):
        parts = (
            "__dict__",
            "__pydantic_extra__",
            "__pydantic_fields_set__",
            "__pydantic_private__",
        )
        return bool(one == other) and all(
            equal(getattr(one, part), getattr(other, part)) for part in parts
        )
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(equal(one[key], other[key]) for key in one)
    if isinstance(one, list):
        return len(one) == len(other) and all(map(equal, one, other))
    return bool(one == other)


def test_every_recorded_json_answer_comes_back(shared_data: Path) -> None:
    count = 0
    for row in recorded(shared_data):
        try:
            value = json.loads(row["response"].get("body", ""))
        except ValueError:
            value = row["response"]
        payload = Payload.of(value)
        stored = Payload.from_json(payload.json())
        assert all(
            json.dumps(found.decode()) == json.dumps(value)
            for found in (payload, payload, payload, stored, stored, stored)
        )
        count += 1
    assert count > 480


def test_every_recorded_sdk_object_comes_back(sdk_answers: list[Any]) -> None:
    for answer in sdk_answers:
        payload = Payload.of(answer)
        stored = Payload.from_json(payload.json())
        for found in (payload, stored):
            assert all(equal(found.decode(), answer) for _ in range(3))
    kinds = {type(answer).__name__ for answer in sdk_answers}
    assert kinds >= {
        "Message",
        "BetaMessage",
        "ChatCompletion",
        "Response",
        "Completion",
        "CreateEmbeddingResponse",
        "list",
    }
    assert len(sdk_answers) > 300


def test_changing_an_sdk_object_changes_no_other(sdk_answers: list[Any]) -> None:
    for answer in sdk_answers[::7]:
        payload = Payload.of(answer)
        for _ in range(4):
            found = payload.decode()
            assert equal(found, answer)
            _ruin(found)


def _ruin(value: Any) -> None:
    if isinstance(value, list):
        for item in value:
            _ruin(item)
        value.clear()
    elif isinstance(value, pydantic.BaseModel):
        for part in (value.__dict__, value.__pydantic_extra__ or {}):
            for item in list(part.values()):
                _ruin(item)
            part.clear()
        value.__pydantic_fields_set__.clear()


@pytest.fixture
def app_models(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A module of the application's own, importable here and in another process."""
    (tmp_path / "app_models.py").write_text(APP_MODELS)
    monkeypatch.syspath_prepend(tmp_path)
    import app_models  # type: ignore[import-not-found]

    yield app_models
    del sys.modules["app_models"]


def parsed_answers(event: Any) -> list[Any]:
    """Structured outputs: the SDKs' generic classes, holding an instance of the application's."""
    sdks, text = Replayed(), '{"name": "n", "where": {"city": "x"}}'
    messages: Any = [{"role": "user", "content": "x"}]
    sdks.content_type = "application/json"

    def answer(body: dict[str, Any], call: Callable[..., Any], **more: Any) -> Any:
        sdks.body = json.dumps(body).encode()
        return call(model="m", **more)

    tool_call = {"id": "t", "type": "function", "function": {"name": "Event", "arguments": text}}
    message = {"role": "assistant", "content": text, "tool_calls": [tool_call]}
    chat = {"id": "c", "object": "chat.completion", "created": 1, "model": "m"}
    chat["choices"] = [{"index": 0, "finish_reason": "stop", "message": message}]
    part = {"type": "output_text", "text": text, "annotations": []}
    output = [
        {
            "type": "message",
            "id": "x",
            "role": "assistant",
            "status": "completed",
            "content": [part],
        }
    ]
    response = {
        "id": "r",
        "object": "response",
        "created_at": 1,
        "model": "m",
        "status": "completed",
        "output": output,
    }
    blocks = [
        {"type": "thinking", "thinking": "hm", "signature": "s"},
        {"type": "text", "text": text},
    ]
    claude = {
        "id": "m",
        "type": "message",
        "role": "assistant",
        "model": "m",
        "content": blocks,
        "stop_reason": "end_turn",
    }
    claude |= {"stop_sequence": None, "usage": {"input_tokens": 1, "output_tokens": 2}}
    tools = [openai.pydantic_function_tool(event)]
    return [
        answer(chat, sdks.openai.chat.completions.parse, messages=messages, response_format=event),
        answer(
            chat,
            sdks.openai.chat.completions.parse,
            messages=messages,
            response_format=event,
            tools=tools,
        ),
        answer(chat, sdks.openai.chat.completions.parse, messages=messages),
        answer(response, sdks.openai.responses.parse, input="x", text_format=event),
        answer(
            claude,
            sdks.anthropic.messages.parse,
            messages=messages,
            max_tokens=9,
            output_format=event,
        ),
        answer(
            claude,
            sdks.anthropic.beta.messages.parse,
            messages=messages,
            max_tokens=9,
            output_format=event,
        ),
    ]


def test_parsed_outputs_come_back_as_the_same_generic_class(app_models: Any) -> None:
    register(app_models.Event)
    for answer in parsed_answers(app_models.Event):
        payload = Payload.of(answer)
        stored = Payload.from_json(payload.json())
        assert all(
            equal(found.decode(), answer)
            for found in (payload, payload, payload, stored, stored, stored)
        )


def test_everything_comes_back_in_another_process(
    sdk_answers: list[Any], app_models: Any, tmp_path: Path
) -> None:
    """Which has only imported the two SDKs, and need not import more of them."""
    register(app_models.Event)
    answers = [*sdk_answers, *parsed_answers(app_models.Event)]
    file = tmp_path / "stored.jsonl"
    file.write_bytes(b"".join(Payload.of(answer).json() + b"\n" for answer in answers))
    run = [sys.executable, "-c", READ_BACK, str(tmp_path), str(file)]
    out = subprocess.run(
        run, capture_output=True, text=True, timeout=300, cwd=Path(__file__).parents[2], check=False
    )
    assert out.returncode == 0, out.stderr[-2000:]
    assert out.stdout.splitlines() == [
        f"{type(answer).__module__} {type(answer).__name__}" for answer in answers
    ]


def test_without_the_sdk_its_answer_is_left_for_later(tmp_path: Path) -> None:
    message = openai.types.CompletionUsage(completion_tokens=1, prompt_tokens=2, total_tokens=3)
    (tmp_path / "one").write_bytes(Payload.of(message).json())
    script = (
        "import sys\nfrom llm_cache_mem.values.payload import Payload\nfrom llm_cache_mem.errors"
        " import EntryUnreadable\npayload = Payload.from_json(open(sys.argv[1],"
        " 'rb').read())\ntry:\n    payload.decode()\nexcept EntryUnreadable as exc:\n    assert"
        " exc.newer\nelse:\n    raise SystemExit('read')\nassert not {'openai', 'pydantic'} &"
        " set(sys.modules)\nimport openai\nassert payload.decode().total_tokens == 3\n"
    )
    run = [sys.executable, "-c", script, str(tmp_path / "one")]
    out = subprocess.run(
        run, capture_output=True, text=True, timeout=300, cwd=Path(__file__).parents[2], check=False
    )
    assert out.returncode == 0, out.stderr[-2000:]


def test_the_tree_of_an_sdk_object_is_plain_json(sdk_answers: list[Any]) -> None:
    for answer in sdk_answers[::20]:
        assert json.loads(json.dumps(to_tree(answer), allow_nan=False)) == to_tree(answer)
