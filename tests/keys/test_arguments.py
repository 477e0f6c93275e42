"""Arguments of functions and tools: everything that they are is part of the key."""

import json
import multiprocessing
import subprocess
import sys
from collections import namedtuple
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path
from typing import Any

import pytest

from llm_cache_mem import LLMCache
from llm_cache_mem.keys.arguments import exact
from llm_cache_mem.tools import ToolCache

pydantic = pytest.importorskip("pydantic")
BaseModel, Field, PrivateAttr, SecretStr = (
    pydantic.BaseModel,
    pydantic.Field,
    pydantic.PrivateAttr,
    pydantic.SecretStr,
)
ROOT = Path(__file__).resolve().parents[2]
VECTORS = json.loads((ROOT / "tests" / "data" / "key_vectors.json").read_text(encoding="utf-8"))
ANSWER = {
    "id": "1",
    "object": "chat.completion",
    "created": 1,
    "model": "m",
    "choices": [
        {"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": "yes"}}
    ],
}


class Creative(BaseModel):  # type: ignore[misc, valid-type]
    temperature: float = 1.0


class Precise(BaseModel):  # type: ignore[misc, valid-type]
    temperature: float = 0.0


class Also(BaseModel):  # type: ignore[misc, valid-type]
    temperature: float = 0.0


class Config(BaseModel):  # type: ignore[misc, valid-type]
    stop: list[str] = []  # noqa: RUF012  # pydantic copies it
    hidden: int = Field(default=0, exclude=True)
    password: SecretStr = SecretStr("")
    _mode: str = PrivateAttr(default="")


class Colour(Enum):
    RED = 1
    BLUE = 2


class Size(Enum):
    SMALL = 1


@dataclass
class Point:
    x: int = 0
    secret: int = field(default=0, repr=False, compare=False)


@dataclass
class Place:
    x: int = 0


Pair = namedtuple("Pair", "x")


def with_private(mode: str) -> Any:
    made = Config()
    made._mode = mode
    return made


def appended() -> Any:
    made = Config()
    made.stop.append("END")
    return made


DIFFERENT = {
    "models with other defaults": (Creative(), Precise()),
    "models of other classes": (Precise(), Also()),
    "a default list that was appended to": (Config(), appended()),
    "an excluded field": (Config(), Config(hidden=1)),
    "a private attribute": (Config(), with_private("x")),
    "a secret": (Config(password="a"), Config(password="b")),
    "enums of other classes": (Colour.RED, Size.SMALL),
    "an enum and its value": (Colour.RED, 1),
    "dataclasses of other classes": (Point(), Place()),
    "a dataclass field that is not compared": (Point(), Point(secret=1)),
    "a dataclass and a dict": (Point(), {"x": 0, "secret": 0}),
    "a tuple and a list": ((1, 2), [1, 2]),
    "a named tuple and a tuple": (Pair(1), (1,)),
    "named tuples": (Pair(1), Pair(2)),
    "enums": (Colour.RED, Colour.BLUE),
    "dataclasses": (Place(), Place(1)),
    "bytes": (b"a", b"b"),
    "keys that are numbers": ({1: "a"}, {"1": "a"}),
    "a dict that looks like a tuple": ((1,), {"$tuple": [1]}),
    "nested": ([{"a": (1,)}], [{"a": [1]}]),
}


@pytest.fixture(params=DIFFERENT, ids=str)
def pair(request: pytest.FixtureRequest) -> tuple[Any, Any]:
    return DIFFERENT[request.param]


def test_a_decorated_function_tells_them_apart(pair: tuple[Any, Any]) -> None:
    cache = LLMCache()
    asked: list[Any] = []

    @cache.cached
    def ask(value: Any) -> int:
        asked.append(value)
        return len(asked)

    assert [ask(value) for value in (*pair, *pair)] == [1, 2, 1, 2]


def test_a_tool_tells_them_apart(pair: tuple[Any, Any]) -> None:
    tools = ToolCache()
    asked: list[Any] = []

    @tools.cached
    def find(value: Any) -> int:
        asked.append(value)
        return len(asked)

    assert [find(value) for value in (*pair, *pair)] == [1, 2, 1, 2]


@pytest.mark.parametrize("key_fn", [None, lambda messages, **params: (messages, params)])
def test_get_or_call_with_an_own_function_tells_them_apart(
    pair: tuple[Any, Any], key_fn: Any
) -> None:
    cache, calls = LLMCache(keep_requests=True, key_fn=key_fn), list[Any]()

    def ask(messages: str, value: Any) -> int:
        calls.append(value)
        return len(calls)

    got = [cache.get_or_call("hi", ask, value=value) for value in (*pair, *pair)]
    assert got == [1, 2, 1, 2]
    assert cache.delete("hi", value=pair[0])
    assert cache.get_or_call("hi", ask, value=pair[0]) == 3


@pytest.mark.parametrize("cache", [LLMCache(), LLMCache(keep_requests=True)], ids=["", "texts"])
def test_get_or_call_keeps_the_published_key_of_plain_json(cache: LLMCache) -> None:
    def ask(messages: Any, **params: Any) -> str:
        return "answer"

    for vector in VECTORS:
        params = dict(vector["request"])
        messages = params.pop("messages")
        cache.get_or_call(messages, ask, **params)
        kind = "stream" if params.get("stream") else "value"
        key = cache.engine.keyer.request(messages, params, kind).key
        assert key.endswith(vector["digest"])
        assert cache.engine.backend.get(key) is not None


def test_get_or_call_with_a_method_of_an_sdk_counts_what_is_sent() -> None:
    openai = pytest.importorskip("openai")
    cache, sent = LLMCache(), list[Any]()

    def post(path: str, *, body: Any, **options: Any) -> Any:
        sent.append(body)
        return openai.types.chat.ChatCompletion(**ANSWER)

    client = openai.OpenAI(api_key="k")
    client.chat.completions._post = post

    def ask(**params: Any) -> None:
        cache.get_or_call([{"role": "user", "content": "hi"}], create, model="m", **params)

    create = client.chat.completions.create
    ask(stop=["a"])
    for same in ({"prompt_cache_key": "run:1"}, {"stream": False}, {"safety_identifier": "u"}):
        ask(stop=("a",), **same)
    assert len(sent) == 1
    key = cache.key([{"role": "user", "content": "hi"}], model="m", stop=["a"])
    assert [key] == [stored.rpartition(":")[2] for stored, _ in cache.engine.entries()]
    ask(stop=["a"], user="u")
    assert len(sent) == 2
    assert cache.delete([{"role": "user", "content": "hi"}], model="m", stop=["a"], stream=False)

    create = lambda **named: client.chat.completions.create(**named)  # noqa: E731
    ask(prompt_cache_key="run:1")
    ask(prompt_cache_key="run:2")
    assert len(sent) == 4


def test_get_or_call_skips_what_leans_on_state_of_the_provider() -> None:
    anthropic, cache = pytest.importorskip("anthropic"), LLMCache()
    create = anthropic.Anthropic(api_key="k", base_url="http://127.0.0.1:9").messages.create
    with pytest.raises(anthropic.APIConnectionError):
        cache.get_or_call([], create, model="m", max_tokens=1, container="c_1", timeout=0.1)
    assert cache.stats().skipped == {"stateful": 1}


def test_equal_arguments_are_one_request() -> None:
    assert exact(Config(stop=["a"])) == exact(Config(stop=["a"]))
    assert exact({"b": 1, "a": (1, Colour.RED)}) == exact({"a": (1, Colour.RED), "b": 1})
    assert exact({2: "b", 1: "a"}) == exact({1: "a", 2: "b"})


def test_plain_json_is_as_it_was() -> None:
    plain = {"messages": [{"role": "user", "content": "hi"}], "n": 1, "t": 0.5, "x": None}
    assert exact(plain) == plain


def test_a_secret_is_in_no_key_or_stored_request() -> None:
    cache = LLMCache(keep_requests=True)
    cached = cache.cached(lambda config: "answer")
    cached(Config(password="hunter2"))
    assert cache.stats().stored == 1
    for key, entry in cache.engine.entries():
        assert "hunter2" not in key + str(entry.request)


def test_an_object_without_a_known_form_goes_uncached() -> None:
    class Holder(BaseModel):  # type: ignore[misc, valid-type]
        _client: Any = PrivateAttr(default_factory=object)

    cache = LLMCache()
    cached = cache.cached(lambda holder: "answer")
    assert [cached(Holder()) for _ in range(2)] == ["answer"] * 2
    assert cache.stats().skipped == {"request": 2}


PROGRAM = """
import multiprocessing, sys
from dataclasses import dataclass
from llm_cache_mem import LLMCache

@dataclass
class Config:
    n: int = 0

cache = LLMCache(backend=sys.argv[1], ttl_seconds=None)

@cache.cached
def ask(config):
    print("called", flush=True)
    return config.n

def work():
    ask(Config(1))

if __name__ == "__main__":
    work()
    worker = multiprocessing.get_context(sys.argv[2]).Process(target=work)
    worker.start()
    worker.join()
    sys.exit(worker.exitcode)
"""


@pytest.mark.parametrize(
    "method", sorted({"spawn", "forkserver"} & set(multiprocessing.get_all_start_methods()))
)
def test_a_function_of_the_main_module_has_one_name_in_workers(tmp_path: Path, method: str) -> None:
    script = tmp_path / "program.py"
    script.write_text(PROGRAM, encoding="utf-8")
    done = subprocess.run(
        [sys.executable, str(script), str(tmp_path / "c.db"), method],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert (done.returncode, done.stdout) == (0, "called\n"), done.stderr
