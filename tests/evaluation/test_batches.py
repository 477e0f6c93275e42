"""cache.batch: through the real SDKs, each request is bought once, whatever happens on the way."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from batch_server import CREATED, BatchServer, batch_server
from conftest import Clock

from llm_cache_mem import LLMCache, installed, options
from llm_cache_mem.errors import BatchFailed, StoreError
from llm_cache_mem.evaluation import MapResult
from llm_cache_mem.evaluation.intents import Intent, Intents
from llm_cache_mem.http import cache_client

openai = pytest.importorskip("openai")
anthropic = pytest.importorskip("anthropic")

PRICES = {"m": (1_000_000, 0)}  # a dollar a token of input; each request has two


class Killed(BaseException):
    """The process is gone."""


class Side:
    """A provider: its *client*, and its own function for live calls."""

    def __init__(self, name: str, url: str) -> None:
        self.name = name
        self.client: Any
        self.create: Callable[..., Any]
        if name == "openai":
            self.client = openai.OpenAI(api_key="k", base_url=url, max_retries=2)
            self.create = self.client.chat.completions.create
        else:
            self.client = anthropic.Anthropic(api_key="k", base_url=url, max_retries=2)
            self.create = self.client.messages.create

    def texts(self, results: list[MapResult]) -> list[str]:
        if self.name == "openai":
            return [result.value.choices[0].message.content for result in results]
        return [result.value.content[0].text for result in results]


@pytest.fixture
def server() -> Iterator[BatchServer]:
    with batch_server() as found:
        yield found


@pytest.fixture(params=["openai", "anthropic"])
def side(request: pytest.FixtureRequest, server: BatchServer) -> Iterator[Side]:
    found = Side(request.param, server.url)
    yield found
    found.client.close()


@pytest.fixture
def now() -> Clock:
    return Clock(CREATED)


@pytest.fixture
def opened(tmp_path: Path, now: Clock) -> Callable[[], LLMCache]:
    """Opens the same file again, as a restarted process would."""
    return lambda: LLMCache(
        backend=tmp_path / "cache.db", max_size=None, ttl_seconds=None, prices=PRICES, clock=now
    )


def request(text: str, model: str = "m") -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": text}], "model": model, "max_tokens": 9}


def batch(cache: LLMCache, side: Side, texts: str, **how: Any) -> list[MapResult]:
    return list(cache.batch(side.client, map(request, texts.split()), poll_seconds=0.01, **how))


def test_only_missing_unique_requests_are_bought(
    server: BatchServer, side: Side, opened: Callable[[], LLMCache]
) -> None:
    cache = opened()
    live = cache.get_or_call(**request("b"), fn=side.create)
    results = batch(cache, side, "a b c a")
    assert side.texts(results) == ["A", "B", "C", "A"]
    assert [result.hit for result in results] == [False, True, False, True]
    assert sorted(server.bought) == ["a", "c"]
    assert type(results[0].value) is type(live)
    assert side.texts(batch(opened(), side, "c b a")) == ["C", "B", "A"]
    assert len(server.batches) == 1


def test_live_calls_hit_the_answers_of_a_batch(
    server: BatchServer, side: Side, opened: Callable[[], LLMCache]
) -> None:
    (result,) = batch(opened(), side, "a")
    live = opened().get_or_call(**request("a"), fn=side.create)
    assert live == result.value
    assert type(live) is type(result.value)
    assert server.live == []


def test_the_ledger_has_the_price_of_a_batch(side: Side, opened: Callable[[], LLMCache]) -> None:
    cache = opened()
    with options(tags={"run": "1"}):
        assert [result.usd for result in batch(cache, side, "a b")] == [1.0, 1.0]
    assert cache.stats().by_tag["run=1"].paid_usd == 2.0
    cache.get_or_call(**request("a"), fn=side.create)
    assert cache.stats().by_model["m"].saved_usd == 1.0


def test_failures_and_expiries_are_reported_by_request(
    server: BatchServer, side: Side, opened: Callable[[], LLMCache]
) -> None:
    results = batch(opened(), side, "a bad late")
    assert [result.value is None for result in results] == [False, True, True]
    assert all(isinstance(result.error, BatchFailed) for result in results[1:])
    reasons = [result.error.reason for result in results[1:]]  # type: ignore[union-attr]
    assert reasons == (
        ["context_length_exceeded", "batch_expired"]
        if side.name == "openai"
        else ["invalid_request_error", "expired"]
    )
    with pytest.raises(BatchFailed):
        batch(opened(), side, "bad a", on_error="raise")
    assert server.bought.count("a") == 1
    assert server.bought.count("bad") == 2, "it has no answer, so it is asked again"


def test_a_restart_attaches_to_the_batch_under_way(
    server: BatchServer, side: Side, opened: Callable[[], LLMCache]
) -> None:
    server.finishes = False
    opened().batch(side.client, map(request, "ab"))  # submitted, and left
    opened().batch(side.client, map(request, "abc"))
    assert sorted(server.bought) == ["a", "b", "c"]
    server.finishes = True
    assert side.texts(batch(opened(), side, "c b a")) == ["C", "B", "A"]
    assert len(server.batches) == 2
    assert [one for one in opened().engine.entries() if ":batch:" in one[0]] == []


@pytest.mark.parametrize("restarts", [False, True])
def test_answers_overtaken_by_an_invalidation_are_not_stored(
    server: BatchServer, side: Side, opened: Callable[[], LLMCache], restarts: bool
) -> None:
    server.finishes = False
    with options(depends_on=["doc:1"]):
        results = opened().batch(side.client, [request("a")], poll_seconds=0.01)
    opened().invalidate("doc:1")
    server.finishes = True
    with options(depends_on=["doc:1"]):
        found = batch(opened(), side, "a") if restarts else list(results)
    assert side.texts(found) == ["A"]
    with options(depends_on=["doc:1"]):
        assert opened().get(**request("a")) is None


def test_a_batch_whose_reply_was_lost_is_found(
    server: BatchServer, side: Side, opened: Callable[[], LLMCache]
) -> None:
    batch(opened(), side, "x y z")  # of another run, and as large
    server.finishes = False
    opened().batch(side.client, map(request, "pqr"))  # and one under way

    def hang_up() -> None:
        raise ConnectionError

    server.after_create = hang_up
    results = opened().batch(side.client, map(request, "abc"), poll_seconds=0.01)
    server.after_create, server.finishes = bool, True
    server.finish()
    assert side.texts(list(results)) == ["A", "B", "C"]
    assert len(server.batches) == 3
    assert sorted(server.bought) == sorted("xyzpqrabc")


@pytest.mark.parametrize("moment", ["before_create", "after_create"])
def test_a_kill_while_submitting_buys_nothing_twice(
    server: BatchServer,
    side: Side,
    opened: Callable[[], LLMCache],
    moment: str,
    monkeypatch: pytest.MonkeyPatch,
    now: Clock,
) -> None:
    provider_submit = None

    def killed(self: Any, jobs: Any, mark: str) -> str:
        if moment == "after_create":
            provider_submit(self, jobs, mark)  # type: ignore[misc]
        raise Killed

    from llm_cache_mem.evaluation import providers

    kind = providers._OpenAI if side.name == "openai" else providers._Anthropic
    provider_submit = kind.submit
    with monkeypatch.context() as patch:
        patch.setattr(kind, "submit", killed)
        with pytest.raises(Killed):
            batch(opened(), side, "a b")
    server.finish()
    if moment == "after_create":
        assert side.texts(batch(opened(), side, "a b")) == ["A", "B"]
        assert sorted(server.bought) == ["a", "b"]
        return
    waiting = opened().batch(side.client, map(request, "ab"), poll_seconds=0.01)
    sleeps: list[float] = []

    def enough(seconds: float) -> None:
        sleeps.append(seconds)
        if len(sleeps) == 3:
            raise Killed

    waiting.gi_frame.f_locals["self"]._sleep = enough  # type: ignore[attr-defined]
    with pytest.raises(Killed):
        next(waiting)
    assert server.bought == [], "by default it waits"
    now.advance(60)
    assert side.texts(batch(opened(), side, "a b", on_unknown="resubmit")) == ["A", "B"]
    assert sorted(server.bought) == ["a", "b"]


def test_a_kill_while_storing_stores_the_rest_later(
    server: BatchServer, side: Side, opened: Callable[[], LLMCache]
) -> None:
    cache = opened()
    writes, store = [], cache.engine.writer.store

    def killed(*args: Any, **kwargs: Any) -> Any:
        writes.append(args)
        if len(writes) == 2:
            raise Killed
        return store(*args, **kwargs)

    cache.engine.writer.store = killed  # type: ignore[method-assign]
    with pytest.raises(Killed):
        batch(cache, side, "a b c")
    again = opened()
    assert side.texts(batch(again, side, "a b c")) == ["A", "B", "C"]
    assert sorted(server.bought) == ["a", "b", "c"]
    assert again.stats().stored == 2


def test_of_two_runs_at_once_one_submits(
    server: BatchServer,
    side: Side,
    opened: Callable[[], LLMCache],
    now: Clock,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    server.finishes = False
    opened().batch(side.client, map(request, "ab"))
    now.advance(1)
    looks, all_intents = [], Intents.all

    def blind_at_first(self: Intents, provider: str) -> list[Any]:
        looks.append(provider)
        return [] if len(looks) == 1 else all_intents(self, provider)

    monkeypatch.setattr(Intents, "all", blind_at_first)
    results = opened().batch(side.client, map(request, "abc"), poll_seconds=0.01)
    server.finishes = True
    assert side.texts(list(results)) == ["A", "B", "C"]
    assert sorted(server.bought) == ["a", "b", "c"]


def test_requests_that_another_run_withdrew_are_submitted(
    server: BatchServer, side: Side, opened: Callable[[], LLMCache], now: Clock
) -> None:
    cache = opened()
    intents = Intents(cache.engine)
    keys = [
        cache.engine.request_of(side.create, (asked := request(text)).pop("messages"), asked)
        for text in "ab"
    ]
    intent = Intent(side.name, [each.key for each in keys if each], now())
    intents.write(intent)
    results = opened().batch(side.client, map(request, "ab"), poll_seconds=0.01)
    intents.remove(intent)  # it was refused
    assert side.texts(list(results)) == ["A", "B"]
    assert sorted(server.bought) == ["a", "b"]


def test_faults_that_pass_do_not_end_the_waiting(
    server: BatchServer, side: Side, opened: Callable[[], LLMCache]
) -> None:
    side.client.max_retries = 0
    server.fails = 3
    assert side.texts(batch(opened(), side, "a")) == ["A"]
    assert server.fails == 0


def test_a_refused_batch_leaves_no_intent(
    server: BatchServer, side: Side, opened: Callable[[], LLMCache]
) -> None:
    cache = opened()
    wrong = {**request("a"), "metadata": {}}
    del wrong["max_tokens"]
    if side.name == "anthropic":
        with pytest.raises(anthropic.BadRequestError):
            cache.batch(side.client, [wrong])
    assert cache.stats().size == 0
    assert side.texts(batch(cache, side, "a")) == ["A"]


def test_nothing_is_submitted_without_a_note_of_it(
    server: BatchServer, side: Side, opened: Callable[[], LLMCache]
) -> None:
    cache = opened()

    def fails(key: str, entry: Any) -> Any:
        raise StoreError("SQLiteStore", "put", "disk full")

    cache.engine.backend.inner.put = fails  # type: ignore[method-assign]
    with pytest.raises(StoreError):
        batch(cache, side, "a")
    assert server.bought == []


def test_openai_batches_are_of_one_model_each(
    server: BatchServer, opened: Callable[[], LLMCache]
) -> None:
    side = Side("openai", server.url)
    asked = [request("a", "m"), request("b", "n"), request("c", "m")]
    results = list(opened().batch(side.client, asked, poll_seconds=0.01))
    assert side.texts(results) == ["A", "B", "C"]
    assert len(server.batches) == 2


def test_parameters_outside_the_key_are_sent_too(
    server: BatchServer, opened: Callable[[], LLMCache]
) -> None:
    side = Side("openai", server.url)
    asked = {**request("a"), "safety_identifier": "u1", "extra_body": {"x": 1}, "timeout": 9}
    list(opened().batch(side.client, [asked], poll_seconds=0.01))
    (row,) = server.batches["batch_0"]["rows"]
    assert row["body"] == {**request("a"), "safety_identifier": "u1", "x": 1}


def test_truncated_answers_are_returned_and_not_stored(
    server: BatchServer, opened: Callable[[], LLMCache]
) -> None:
    side, cache = Side("openai", server.url), opened()
    assert side.texts(batch(cache, side, "cut")) == ["CUT"]
    assert cache.stats().skipped
    assert cache.stats().stored == 0


@pytest.mark.parametrize("text", ["empty", "list"])
@pytest.mark.parametrize("through_http", [False, True])
def test_empty_answers_are_not_stored(
    server: BatchServer, opened: Callable[[], LLMCache], through_http: bool, text: str
) -> None:
    side, cache = Side("openai", server.url), opened()
    if through_http:
        side.client = cache_client(side.client, cache)
    batch(cache, side, text)
    side.client.close()
    assert cache.stats().skipped["empty"] == 1
    assert cache.stats().stored == 0


def test_a_bad_request_is_an_error_of_its_own(
    server: BatchServer, side: Side, opened: Callable[[], LLMCache]
) -> None:
    wrong: list[Any] = ["text", {**request("a"), "extra_headers": {}}, request("b")]
    results = list(opened().batch(side.client, wrong, poll_seconds=0.01))
    assert [type(result.error) for result in results] == [TypeError, ValueError, type(None)]


def test_wrong_clients_and_bounded_caches_are_refused(opened: Callable[[], LLMCache]) -> None:
    client = openai.OpenAI(api_key="k")
    with pytest.raises(ValueError, match="max_size=None"):
        LLMCache().batch(client, [])
    with pytest.raises(TypeError, match="AsyncOpenAI"):
        opened().batch(openai.AsyncOpenAI(api_key="k"), [])
    with pytest.raises(TypeError, match="client of openai"):
        opened().batch(object(), [])
    for wrong in ({"on_unknown": "x"}, {"on_error": "x"}, {"poll_seconds": 0}):
        with pytest.raises(ValueError, match=next(iter(wrong))):
            opened().batch(client, [], **wrong)  # type: ignore[arg-type]


@pytest.fixture
def behind(side: Side) -> Callable[[LLMCache], Any]:
    """A live call of a client behind the HTTP layer of a cache; and that client."""

    def made(cache: LLMCache) -> tuple[Any, Callable[[str], Any]]:
        client = cache_client(side.client, cache)
        plain = client.chat.completions if side.name == "openai" else client.messages
        return client, lambda text: plain.create(**request(text))

    return made


def test_a_batch_of_a_cached_client_answers_its_live_calls(
    server: BatchServer, side: Side, opened: Callable[[], LLMCache], behind: Any
) -> None:
    with opened() as cache:
        client, live = behind(cache)
        wanted = [request("a"), request("b"), request("a")]
        results = list(cache.batch(client, wanted, poll_seconds=0.01))
        assert side.texts(results) == ["A", "B", "A"]
        assert [result.hit for result in results] == [False, False, True]
        assert cache.stats().stored == 2
        said = live("a")
        assert side.texts([MapResult(said, True, 0.0, 0.0, None, 0)]) == ["A"]
        assert type(said) is type(results[0].value)
        with installed(cache):
            side.create(**request("b"))
    assert (server.live, server.bought) == ([], ["a", "b"])


def test_a_batch_of_a_cached_client_buys_no_answer_of_its_live_calls(
    server: BatchServer, side: Side, opened: Callable[[], LLMCache], behind: Any
) -> None:
    with opened() as cache:
        client, live = behind(cache)
        live("a")
        stats = cache.stats()
        results = list(cache.batch(client, [request("a"), request("b")], poll_seconds=0.01))
        assert side.texts(results) == ["A", "B"]
        assert [result.hit for result in results] == [True, False]
        assert (cache.stats().hits, cache.stats().misses) == (stats.hits + 1, stats.misses + 1)
    with opened() as again:
        client, _ = behind(again)
        assert all(result.hit for result in again.batch(client, [request("a"), request("b")]))
    assert (server.live, server.bought) == (["a"], ["b"])
