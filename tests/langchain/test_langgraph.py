"""NodeCache: results of LangGraph's nodes, in every store, and none of another node or graph."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated, Any, TypedDict

import pytest
from langchain_core.messages import AIMessage, HumanMessage, RemoveMessage
from langchain_core.runnables import RunnableLambda
from langchain_llm_cache_mem.langgraph import NodeCache, node_key
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.func import entrypoint, task
from langgraph.graph import END, START, StateGraph
from langgraph.graph.message import add_messages
from langgraph.types import CachePolicy, Command, RetryPolicy, Send, interrupt
from pydantic import BaseModel

from llm_cache_mem import LLMCache, options
from llm_cache_mem.stores import MemoryStore


class State(TypedDict, total=False):
    text: str
    found: Any
    messages: Annotated[list[Any], add_messages]


def graph(
    node: Any, cache: NodeCache, *, name: str = "node", state: Any = State, **settings: Any
) -> Any:
    builder = StateGraph(state)
    policy = settings.pop("policy", CachePolicy(key_func=node_key))
    builder.add_node(name, node, cache_policy=policy, **settings)
    builder.add_edge(START, name)
    return builder.compile(cache=cache)


def counted(calls: list[Any]) -> Callable[[State], State]:
    def node(state: State) -> State:
        calls.append(state)
        return {"found": f"{state['text']} {len(calls)}"}

    return node


@pytest.mark.parametrize("backend", ["memory", "sqlite", "redis", "memcached"])
def test_a_node_runs_once_in_every_store(
    backend: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    url = {"memory": "memory", "sqlite": f"sqlite:///{tmp_path}/c.db"}.get(backend)
    calls: list[Any] = []
    with LLMCache(backend=url or request.getfixturevalue(f"{backend}_url")) as cache:
        app = graph(counted(calls), NodeCache(cache))
        assert [app.invoke({"text": "a"})["found"] for _ in range(3)] == ["a 1"] * 3
        assert app.invoke({"text": "b"})["found"] == "b 2"
        stats = cache.stats()
        assert (stats.hits, stats.misses, len(calls)) == (2, 2, 2)
        assert stats.by_model["node:node"].hits == 2


def test_async_nodes_run_once() -> None:
    calls: list[Any] = []

    async def node(state: State) -> State:
        return counted(calls)(state)

    async def run() -> None:
        app = graph(node, NodeCache())
        assert [(await app.ainvoke({"text": "a"}))["found"] for _ in range(3)] == ["a 1"] * 3

    asyncio.run(run())


def test_another_process_finds_the_results_of_a_named_graph(tmp_path: Path) -> None:
    class Node:
        def __init__(self) -> None:
            self.calls = 0

        def __call__(self, state: State) -> State:
            self.calls += 1
            return {"found": self.calls}

    node, path = Node(), tmp_path / "c.db"
    for _ in range(2):
        with LLMCache(backend=path) as cache:
            assert graph(node, NodeCache(cache, graph="a")).invoke({"text": "a"})["found"] == 1
    with LLMCache(backend=path) as cache:
        assert graph(node, NodeCache(cache, graph="b")).invoke({"text": "a"})["found"] == 2


def test_graphs_with_nodes_that_langgraph_cannot_name_do_not_answer_each_other() -> None:
    class Handler:
        def __init__(self, answer: str) -> None:
            self.answer = answer

        def __call__(self, state: State) -> State:
            return {"found": self.answer}

    cache = LLMCache()
    one, two = (graph(Handler(name), NodeCache(cache)) for name in "ab")
    assert [app.invoke({"text": "x"})["found"] for app in (one, two, one)] == ["a", "b", "a"]


def test_graphs_that_share_a_cache_do_not_answer_each_other() -> None:
    """By functions of one name: coroutine functions, closures, defaults, partials, sequences of
    runnables, subgraphs, edited code."""

    def closing(over: Any) -> Any:
        def node(state: State) -> State:
            return {"found": over["a"] if isinstance(over, dict) else over.value}

        return node

    class Client:
        def __init__(self, value: str) -> None:
            self.value = value

    async def one(state: State) -> State:
        return {"found": "one"}

    first = one

    async def one(state: State) -> State:  # type: ignore[no-redef]
        return {"found": "two"}

    def subgraph(answer: str) -> Any:
        return StateGraph(State).add_sequence([("n", found(answer))]).set_entry_point("n").compile()

    def found(answer: Any) -> Any:
        return lambda state: {"found": answer}

    def by_default(answer: Any) -> Any:
        def node(state: State, answer: Any = answer) -> State:
            return {"found": answer}

        return node

    first_step = RunnableLambda(lambda state: state)
    makers: list[Any] = [
        found,
        by_default,
        lambda answer: partial(found(answer)),
        lambda answer: first_step | found(answer),
        lambda answer: first_step | {"found": lambda state: answer},
        lambda answer: RunnableLambda(by_default(None)).bind(answer=answer),
        subgraph,
    ]
    cache = NodeCache()
    for pair in (
        *([(make("x"), "x"), (make("y"), "y")] for make in makers),
        [(closing({"a": 1}), 1), (closing({"a": 2}), 2)],
        [(closing(Client("x")), "x"), (closing(Client("y")), "y")],
        [(first, "one"), (one, "two")],
    ):
        apps = [(graph(node, cache), expected) for node, expected in pair]
        for app, expected in (*apps, *apps):
            found: Any = asyncio.run(app.ainvoke({"text": "x"}))
            assert found["found"] == expected
    assert cache.cache.stats().hits == 2 * (len(makers) + 3)


def test_nodes_of_one_function_do_not_answer_each_other() -> None:
    cache, calls = NodeCache(), list[Any]()
    node = counted(calls)
    found = [
        graph(node, cache, name=name).invoke({"text": "x"})["found"]
        for name in ("a,b", "a", "a,b", "b")
    ]
    assert found == ["x 1", "x 2", "x 1", "x 3"]


class Model(BaseModel):
    text: str
    found: Any = None
    tags: set[str] = set()


def test_equal_pydantic_states_hit() -> None:
    calls: list[Any] = []

    def node(state: Model) -> dict[str, Any]:
        calls.append(state)
        return {"found": len(calls)}

    app = graph(node, NodeCache(), state=Model)
    for given in ({"text": "a"}, {"text": "a", "found": None}, {"text": "a"}):
        app.invoke(given)
    assert len(calls) == 1


@dataclass
class Point:
    x: Any


@pytest.mark.parametrize(
    ("one", "other", "alike"),
    [
        ({"m": [HumanMessage("a", id="1")]}, {"m": [HumanMessage("a", id="2")]}, True),
        ({"m": [HumanMessage("a")]}, {"m": [AIMessage("a")]}, False),
        ({"m": [HumanMessage("a")]}, {"m": [HumanMessage("b")]}, False),
        (Model(text="a"), Model(text="a"), True),
        (Model(text="a"), {"text": "a", "found": None}, False),
        (Model(text="a", found=[HumanMessage("a", id="1")]), Model(text="a"), False),
        (
            Point([HumanMessage("a", id="1")]),
            Point([HumanMessage("a", id="2")]),
            True,
        ),
        (Point((1, 2)), Point([1, 2]), False),
        ({"a": 1, "b": 2}, {"b": 2, "a": 1}, True),
        ({1: "a"}, {"1": "a"}, False),
        (("a", {"b": 1}), ("a", [["b", 1]]), False),
        (object(), object(), False),
    ],
)
def test_node_key_tells_all_but_the_ids_of_messages(one: Any, other: Any, alike: bool) -> None:
    assert (node_key(one) == node_key(other)) is alike
    assert node_key(one, more=1) != node_key(one)


def test_messages_with_new_ids_hit_and_come_back_equal() -> None:
    calls: list[Any] = []

    def node(state: State) -> State:
        calls.append(state)
        call = {"name": "f", "args": {"a": 1}, "id": "c", "type": "tool_call"}
        return {"messages": [AIMessage("yes", id="answer", tool_calls=[call])]}

    app = graph(node, NodeCache())
    first, second = (app.invoke({"messages": [HumanMessage("hi")]}) for _ in range(2))
    assert len(calls) == 1
    assert second["messages"][1] == first["messages"][1]
    assert second["messages"][1] is not first["messages"][1]


def test_a_node_that_changes_messages_of_its_run_always_runs() -> None:
    def trim(state: State) -> State:
        return {"messages": [RemoveMessage(id=state["messages"][0].id)]}

    def edit(state: State) -> Command[Any]:
        last = state["messages"][-1]
        return Command(update={"messages": [HumanMessage(last.text + "!", id=last.id)]})

    for node, expected in ((trim, ["b"]), (edit, ["a", "b!"])):
        cache = NodeCache()
        app = graph(node, cache)
        for _ in range(2):
            result = app.invoke({"messages": [HumanMessage("a"), HumanMessage("b")]})
            assert [message.text for message in result["messages"]] == expected
        assert cache.cache.stats().skipped == {"message ids": 2}


def test_commands_and_sends_come_back_equal() -> None:
    calls: list[Any] = []

    def node(state: State) -> Command[Any]:
        calls.append(state)
        return Command(update={"found": 1}, goto=[Send("next", {"text": "sent"}), "last"])

    def following(state: State) -> State:
        return {"messages": [HumanMessage(state["text"], id=state["text"])]}

    builder = StateGraph(State)
    builder.add_node(
        "node", node, cache_policy=CachePolicy(key_func=node_key), destinations=("next", "last")
    )
    builder.add_node("next", following)
    builder.add_node("last", lambda state: {"text": "end"})
    builder.add_edge(START, "node")
    builder.add_edge("last", END)
    app = builder.compile(cache=NodeCache())
    results = [app.invoke({"text": "a"}) for _ in range(2)]
    assert len(calls) == 1
    assert results[0] == results[1]
    assert results[0]["messages"][0].content == "sent"


@pytest.mark.parametrize("form", ["function", "subgraph"])
def test_a_node_that_interrupts_is_not_stored(form: str) -> None:
    """Nor when it was resumed: another run has an answer of its own."""

    def node(state: State) -> State:
        return {"found": interrupt("sure?")}

    inner = StateGraph(State).add_sequence([("inner", node)]).set_entry_point("inner").compile()
    builder, cache = StateGraph(State), NodeCache()
    policy = CachePolicy(key_func=node_key)
    builder.add_node("node", node if form == "function" else inner, cache_policy=policy)
    builder.add_edge(START, "node")
    app = builder.compile(cache=cache, checkpointer=InMemorySaver())
    for answer in ("yes", "no"):
        config: Any = {"configurable": {"thread_id": answer}}
        assert "__interrupt__" in app.invoke({"text": "a"}, config)
        assert app.invoke(Command(resume=answer), config)["found"] == answer
    assert cache.cache.stats().skipped == {"interrupt": 2}


def test_a_node_that_is_retried_is_stored_when_it_succeeds() -> None:
    calls: list[Any] = []

    def node(state: State) -> State:
        calls.append(state)
        if len(calls) == 1:
            raise ConnectionError
        return {"found": len(calls)}

    retry = RetryPolicy(initial_interval=0.001, jitter=False)
    app = graph(node, NodeCache(), retry_policy=retry)
    assert [app.invoke({"text": "a"})["found"] for _ in range(2)] == [2, 2]


def test_a_result_without_a_stored_form_is_skipped() -> None:
    calls: list[Any] = []

    def node(state: State) -> State:
        calls.append(state)
        return {"found": object()}

    cache = NodeCache()
    app = graph(node, cache)
    for _ in range(2):
        app.invoke({"text": "a"})
    assert (len(calls), cache.cache.stats().skipped) == (2, {"value": 2})


def test_results_live_as_long_as_their_policy_says(clock: Any) -> None:
    calls: list[Any] = []
    cache = NodeCache(LLMCache(ttl_seconds=3600, clock=clock))
    app = graph(counted(calls), cache, policy=CachePolicy(key_func=node_key, ttl=7200))
    other = graph(counted(calls), cache, name="other")
    for now, expected in ((0, 2), (3599, 2), (3601, 3), (7100, 3), (7300, 5)):
        clock.now = 1_000_000.0 + now
        app.invoke({"text": "a"})
        other.invoke({"text": "a"})
        assert len(calls) == expected, now


def test_clear_is_by_namespace() -> None:
    cache = NodeCache()
    one, two = ((("graph", name), "key") for name in "ab")
    cache.set({one: ([("x", 1)], None), two: ([("x", 2)], None)})
    cache.clear([one[0]])
    assert cache.get([one, two]) == {two: [("x", 2)]}
    cache.clear()
    assert cache.get([one, two]) == {}


def test_nodes_depend_on_documents() -> None:
    calls: list[Any] = []
    cache = NodeCache()
    app = graph(counted(calls), cache)
    with options(depends_on=["doc:1"]):
        for expected in ("a 1", "a 1"):
            assert app.invoke({"text": "a"})["found"] == expected
        cache.cache.invalidate("doc:1")
        assert app.invoke({"text": "a"})["found"] == "a 2"


def test_tasks_are_cached() -> None:
    calls: list[int] = []

    @task(cache_policy=CachePolicy(key_func=node_key))
    def double(number: int) -> int:
        calls.append(number)
        return 2 * number

    @entrypoint(cache=NodeCache())
    def run(number: int) -> int:
        return int(double(number).result())

    assert [run.invoke(2) for _ in range(3)] == [4, 4, 4]
    assert calls == [2]


def test_tasks_of_a_resumed_function_are_cached() -> None:
    calls: list[int] = []

    @task(cache_policy=CachePolicy(key_func=node_key))
    def double(number: int) -> int:
        calls.append(number)
        return 2 * number

    @entrypoint(cache=NodeCache(), checkpointer=InMemorySaver())
    def run(number: int) -> list[Any]:
        return [[double(each).result(), interrupt("more?")] for each in (1, 2, 2)]

    for thread in "ab":
        config: Any = {"configurable": {"thread_id": thread}}
        run.invoke(1, config)
        *_, last = (run.invoke(Command(resume=answer), config) for answer in "xyz")
        assert last == [[2, "x"], [4, "y"], [4, "z"]]
    assert calls == [1, 2]


def test_a_failing_store_fails_no_run() -> None:
    calls: list[Any] = []

    class Broken(MemoryStore):
        def get(self, key: str) -> Any:
            raise RuntimeError

        put: Any = get

    app = graph(counted(calls), NodeCache(LLMCache(backend=Broken())))
    assert [app.invoke({"text": "a"})["found"] for _ in range(2)] == ["a 1", "a 2"]


@pytest.mark.parametrize("wrong", [{"cache": 3}, {"graph": 3}, {"cache": LLMCache(), "mode": "on"}])
def test_wrong_arguments(wrong: Any) -> None:
    with pytest.raises(TypeError):
        NodeCache(**wrong)
