"""The decorators: which calls of a function are one."""

from dataclasses import dataclass
from typing import Any

import pytest

from llm_cache_mem.tools import ToolCache


@pytest.fixture
def tools() -> ToolCache:
    return ToolCache()


def test_arguments_are_bound_to_the_signature(tools: ToolCache) -> None:
    runs = []

    @tools.cached
    def area(width: int, height: int = 2, *more: int, unit: str = "m") -> str:
        """The area."""
        runs.append(1)
        return f"{width * height} {unit}"

    assert {area(1), area(1, 2), area(height=2, width=1), area(1, unit="m")} == {"2 m"}
    assert len(runs) == 1
    area(1, 2, 3)
    area(1, unit="ft")
    assert len(runs) == 3
    assert (area.__name__, area.__doc__) == ("area", "The area.")
    assert tools.stats().by_tool["area"].hits == 3
    with pytest.raises(TypeError, match="missing 1 required"):
        area()  # type: ignore[call-arg]


async def test_a_coroutine_function(tools: ToolCache) -> None:
    runs = []

    @tools.cached(name="search", ttl_seconds=60)
    async def find(what: str) -> list[str]:
        runs.append(what)
        return [what]

    assert [await find("x"), await find(what="x")] == [["x"]] * 2
    assert runs == ["x"]
    assert tools.invalidate("search", {"what": "x"})
    assert not tools.invalidate("search", {"what": "y"})
    await find("x")
    assert len(runs) == 2


def test_changed_code_is_another_tool_unless_a_version_says_so(tools: ToolCache) -> None:
    def defined(body: str, **settings: Any) -> Any:
        scope: dict[str, Any] = {"tools": tools, "settings": settings, "__name__": "edited"}
        exec(f"@tools.cached(name='t', **settings)\ndef t(): return {body}", scope)
        return scope["t"]

    assert [defined("'one'")(), defined("'one'")(), defined("'two'")()] == ["one", "one", "two"]
    assert [
        defined("'one'", version="1")(),
        defined("'two'", version="1")(),
        defined("'two'", version="2")(),
    ] == ["one", "one", "two"]


def test_closure_values_are_part_of_the_key(tools: ToolCache) -> None:
    def weather(units: str) -> Any:
        @tools.cached
        def lookup(city: str) -> str:
            return f"20 {units}"

        return lookup

    assert [weather("C")("Rome"), weather("F")("Rome")] == ["20 C", "20 F"]


def test_two_functions_are_not_one_tool(tools: ToolCache) -> None:
    @tools.cached(name="t")
    def one() -> int:
        return 1

    with pytest.raises(ValueError, match="two functions are the tool 't'"):

        @tools.cached(name="t")
        def two() -> int:
            return 2


@dataclass(frozen=True)
class City:
    name: str


@dataclass
class Report:
    city: City
    degrees: float


def test_results_have_the_annotated_return_type(tools: ToolCache) -> None:
    runs = []

    @tools.cached
    def report(name: str) -> list[Report] | None:
        runs.append(name)
        return [Report(City(name), 20.5)]

    assert [report("Rome"), report("Rome")] == [[Report(City("Rome"), 20.5)]] * 2
    assert len(runs) == 1


def test_methods() -> None:
    tools, runs = ToolCache(), []

    @dataclass
    class Shop:
        name: str

        @tools.cached
        def price(self, what: str) -> str:
            runs.append(what)
            return f"{what} at {self.name}"

    assert [Shop("a").price("x"), Shop("a").price("x"), Shop("b").price("x")] == [
        "x at a",
        "x at a",
        "x at b",
    ]
    assert len(runs) == 2


def test_a_self_without_a_wire_form_has_to_be_ignored() -> None:
    tools, runs = ToolCache(), []

    class Client:
        @tools.cached
        def get(self, what: str) -> str:
            runs.append(what)
            return what

        @tools.cached(ignore=["self"])
        def shared(self, what: str) -> str:
            runs.append(what)
            return what

        @classmethod
        @tools.cached
        def of_class(cls, what: str) -> str:
            runs.append(what)
            return what

        @staticmethod
        @tools.cached
        def static(what: str) -> str:
            runs.append(what)
            return what

    client = Client()
    assert [client.get("x"), client.get("x")] == ["x", "x"]
    assert len(runs) == 2
    assert tools.cache.stats().skipped == {"request": 2}
    assert [
        client.shared("x"),
        Client().shared("x"),
        Client.of_class("x"),
        client.of_class("x"),
        client.static("x"),
        Client.static("x"),
    ]
    assert len(runs) == 5


def test_entities_are_named_after_defaults_too(tools: ToolCache) -> None:
    runs = []

    @tools.cached(depends_on="user:{id}")
    def user(id: int = 7) -> int:
        runs.append(id)
        return id

    @tools.writing(entities="user:{id}")
    def rename(id: int = 7) -> None:
        """Changes it."""

    @tools.writing(tools=["user"])
    async def drop() -> None:
        """Drops all."""

    user()
    rename()
    user()
    assert len(runs) == 2
    import asyncio

    asyncio.run(drop())
    user()
    user()
    assert len(runs) == 3


def test_wrong_uses(tools: ToolCache) -> None:
    def stream() -> Any:
        yield 1

    with pytest.raises(TypeError, match="generator"):
        tools.cached(stream)
    with pytest.raises(TypeError, match="function"):
        tools.cached(3)  # type: ignore[type-var]
    with pytest.raises(ValueError, match="no argument nothing"):
        tools.cached(ignore=["nothing"])(lambda x: x)
    with pytest.raises(ValueError, match="no argument nothing"):
        tools.cached(depends_on="user:{nothing}")(lambda x: x)
    with pytest.raises(ValueError, match="no argument nothing"):
        tools.writing(entities=["all", "user:{nothing}"])(lambda x: x)
    with pytest.raises(TypeError):
        tools.cached(ttl=3)(lambda x: x)  # type: ignore[call-overload]


def test_a_call_is_named_without_default_arguments(tools: ToolCache) -> None:
    runs = []

    @tools.cached(depends_on="place:{country}")
    def weather(city: str, /, days: int = 1, *more: int, country: str = "it", **others: Any) -> str:
        runs.append(city)
        return city

    weather("Rome")
    assert tools.get_or_call("weather", {"city": "Rome", "days": 1}, lambda: "another") == "Rome"
    assert not tools.invalidate("weather", {"city": "Rome", "days": 2})
    assert tools.invalidate("weather", {"city": "Rome"})
    weather("Rome")
    assert runs == ["Rome", "Rome"]
