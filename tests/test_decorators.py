"""@cache.cached: what counts as the same call, for every kind of function."""

import asyncio
import functools
import inspect
import subprocess
import sys
import textwrap
import types
from collections import Counter, OrderedDict

import httpx2
import pytest

from llm_cache_mem import LLMCache, options


@pytest.fixture
def cache():
    return LLMCache()


def test_spelling_of_arguments_does_not_change_the_key(cache):
    calls = []

    @cache.cached
    def ask(question, model="m", *more, **params):
        calls.append(question)
        return {"answer": question}

    assert ask("q") == ask(question="q") == ask("q", "m") == {"answer": "q"}
    assert len(calls) == 1
    ask("q", "other")
    ask("q", "m", "more")
    ask("q", temperature=1)
    assert len(calls) == 4


def test_positional_and_keyword_extras_are_not_confused(cache):
    calls = []

    @cache.cached
    def ask(*args, **kwargs):
        calls.append((args, kwargs))
        return len(calls)

    assert ask(1) != ask(args=1) != ask(args=[1])
    assert ask((1,)) != ask(1)


def test_two_functions_with_equal_arguments_are_separate(cache):
    @cache.cached
    def summarize(text):
        return "summary"

    @cache.cached
    def translate(text):
        return "translation"

    assert (summarize("x"), translate("x"), summarize("x")) == ("summary", "translation", "summary")


def test_closures_differ_by_the_plain_values_they_hold(cache):
    client = object()

    def make(prompt):
        @cache.cached
        def ask(question):
            assert client is not None
            return prompt + question

        return ask

    assert make("a")("?") == "a?"
    assert make("b")("?") == "b?"
    assert cache.stats().misses == 2
    assert make("a")("?") == "a?"
    assert cache.stats().hits == 1


HELPERS = {
    "its closure": lambda by: lambda x: x * by,
    "its defaults": lambda by: eval(f"lambda x, by={by}: x * by"),
    "a list": lambda by: [lambda x: x * by],
    "a dict": lambda by: {"helper": lambda x: x * by},
    "a partial": lambda by: functools.partial(lambda _, x: x * by, None),
    "a partial in a list": lambda by: [functools.partial(lambda _, x: x * by, None)],
    "a method": lambda by: types.MethodType(lambda _, x: x * by, "self"),
    "a method in a list": lambda by: [types.MethodType(lambda _, x: x * by, "self")],
    "a closure in it": lambda by: (lambda inner: lambda x: inner(x))(lambda x: x * by),
}


@pytest.mark.parametrize("make", HELPERS.values(), ids=HELPERS)
def test_closures_differ_by_what_their_helpers_hold(cache, make):
    def ask_with(helper):
        @cache.cached
        def ask(x):
            found = helper["helper"] if isinstance(helper, dict) else helper
            return (found[0] if isinstance(found, list) else found)(x)

        return ask

    assert [ask_with(make(by))(1) for by in (1, 2, 1, 2)] == [1, 2, 1, 2]
    assert (cache.stats().misses, cache.stats().hits) == (2, 2)


def test_partials_of_closures_are_told_apart(cache):
    def ask_with(by):
        return cache.cached(functools.partial(lambda _, x: x * by, None))

    assert [ask_with(by)(1) for by in (1, 2, 1, 2)] == [1, 2, 1, 2]
    assert (cache.stats().misses, cache.stats().hits) == (2, 2)


def test_helpers_may_call_each_other(cache):
    def make(by):
        def even(x):
            return by if x == 0 else odd(x - 1)

        def odd(x):
            return 0 if x == 0 else even(x - 1)

        @cache.cached
        def ask(x):
            return even(x)

        return ask

    assert [make(by)(2) for by in (1, 2, 1)] == [1, 2, 1]
    assert cache.stats().hits == 1


def test_helpers_too_deep_to_read_make_calls_uncached(cache):
    def wrap(fn):
        return lambda x: fn(x)

    helper = abs
    for _ in range(2000):
        helper = wrap(helper)

    @cache.cached
    def ask(x):
        return helper is not None

    assert [ask(1), ask(1)] == [True, True]
    assert cache.stats().hits == 0


def test_another_body_under_the_same_name_is_another_function(cache):
    def define(body):
        scope = {"cache": cache}
        exec(textwrap.dedent(body), scope)  # what editing a notebook cell does
        return scope["ask"]

    one = define("@cache.cached\ndef ask(q):\n    return 'one ' + q")
    again = define("\n\n@cache.cached\ndef ask(q):\n    return 'one ' + q")
    two = define("@cache.cached\ndef ask(q):\n    return 'two ' + q")
    assert (one("q"), two("q"), again("q")) == ("one q", "two q", "one q")
    assert cache.stats().hits == 1


def test_a_version_stands_for_the_code(cache):
    def define(version):
        @cache.cached(version=version)
        def ask(q):
            return version

        return ask

    assert define("1")("q") == "1"
    assert define("2")("q") == "2"


def test_ignored_arguments_are_not_part_of_the_request(cache):
    class Client:
        calls = 0

        @cache.cached(ignore=["self"])
        def ask(self, question):
            self.calls += 1
            return question

    one, two = Client(), Client()
    assert one.ask("q") == two.ask("q") == "q"
    assert (one.calls, two.calls) == (1, 0)


def test_an_argument_without_a_wire_form_calls_through_and_is_counted(cache):
    @cache.cached
    def ask(thing):
        return 1

    ask(object())
    assert cache.stats().skipped == {"request": 1}


def test_key_fn_sees_messages_and_params_as_everywhere(cache):
    seen = []

    def key_fn(messages, **params):
        seen.append((messages, params))
        return [messages, params]

    @LLMCache(key_fn=key_fn).cached
    def ask(messages, model):
        return 1

    ask([{"role": "user", "content": "q"}], "m")
    assert seen == [([{"role": "user", "content": "q"}], {"model": "m"})]


@pytest.mark.parametrize(
    "key_fn", [lambda messages, **params: messages, lambda messages, **params: "all the same"]
)
def test_a_narrow_key_fn_still_keeps_functions_apart(key_fn):
    cache = LLMCache(key_fn=key_fn)
    functions = [cache.cached(multiplied_by(factor)) for factor in (2, 3)]
    for _ in range(2):
        assert [function([{"role": "user", "content": "q"}]) for function in functions] == [2, 3]
    assert cache.stats().hits == 2


def multiplied_by(factor):
    def ask(messages):
        return factor * len(messages)

    return ask


def test_wrong_arguments_raise_the_type_error_of_the_function(cache):
    @cache.cached
    def ask(question):
        return 1

    with pytest.raises(TypeError, match="question"):
        ask()
    with pytest.raises(TypeError, match="@cached goes on a function"):
        cache.cached(7)


def test_coroutine_functions(cache):
    calls = []

    @cache.cached
    async def ask(question):
        calls.append(question)
        await asyncio.sleep(0)
        return [question]

    async def main():
        return await asyncio.gather(*(ask("q") for _ in range(10)))

    assert inspect.iscoroutinefunction(ask)
    assert asyncio.run(main()) == [["q"]] * 10
    assert calls == ["q"]


def test_generators_are_stored_at_their_end_only(cache):
    calls = []

    @cache.cached
    def ask(n):
        calls.append(n)
        yield from range(n)

    next(ask(3))
    assert list(ask(3)) == list(ask(3)) == [0, 1, 2]
    assert calls == [3, 3]


def test_async_generators_are_stored_at_their_end_only(cache):
    calls = []

    @cache.cached
    async def ask(n):
        calls.append(n)
        for i in range(n):
            yield i

    async def main():
        stream = ask(3)
        await anext(stream)
        await stream.aclose()
        assert [i async for i in ask(3)] == [i async for i in ask(3)] == [0, 1, 2]

    asyncio.run(main())
    assert calls == [3, 3]


def test_the_wrapped_function_keeps_its_face(cache):
    @cache.cached
    def ask(question: str, *, model: str = "m") -> str:
        """Ask."""
        return question

    assert (ask.__name__, ask.__doc__) == ("ask", "Ask.")
    assert str(inspect.signature(ask)) == "(question: str, *, model: str = 'm') -> str"


def test_a_functions_key_is_the_same_in_every_process(tmp_path):
    script = tmp_path / "script.py"
    script.write_text(
        textwrap.dedent("""
        import sys
        from llm_cache_mem import LLMCache
        cache = LLMCache(backend=sys.argv[1])
        @cache.cached
        def ask(q):
            return q in {"b", "a", "c"}, [x for x in (1, "two")], lambda: 3.0
        @cache.cached
        def tell(q):
            if q in {"b", "a", "c"}:
                return {"told": q}
        tell("a")
        print(cache.stats().hits)
        cache.close()
        """)
    )
    hits = [
        subprocess.run(
            [sys.executable, str(script), str(tmp_path / "c.db")],
            env={"PYTHONHASHSEED": seed, "PYTHONPATH": "."},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed in ("1", "2", "3")
    ]
    assert hits == ["0\n", "1\n", "1\n"]


def test_functions_made_of_functions_are_told_apart(cache):
    from functools import partial, wraps

    def ask(model, q):
        return f"{model}:{q}"

    class Bot:
        def __init__(self, name):
            self.name = name

        def ask(self, q):
            return f"{self.name}:{q}"

        def __call__(self, q):
            return f"{self.name}:{q}"

    def loud(fn):
        @wraps(fn)
        def wrapper(q):
            return fn(q).upper()

        return wrapper

    for make in (
        lambda name: partial(ask, name),
        lambda name: Bot(name).ask,
        lambda name: Bot(name),
    ):
        one, two = cache.cached(make("a")), cache.cached(make("b"))
        assert (one("q"), two("q"), one("q")) == ("a:q", "b:q", "a:q")
    loud_a, loud_b = (cache.cached(loud(fn)) for fn in (lambda q: "a" + q, lambda q: "b" + q))
    assert (loud_a("q"), loud_b("q")) == ("AQ", "BQ")


def test_keywords_called_like_other_arguments_are_not_confused(cache):
    @cache.cached
    def ask(a, /, **more):
        return [a, more]

    assert ask(1, a=2) != ask(9, a=2)

    @cache.cached
    def collect(*args, **kwargs):
        return [list(args), kwargs]

    assert collect(1) != collect(**{"cached.args": [1]})
    assert collect() != collect(messages=None)


def test_a_global_that_the_function_reads_is_part_of_it(cache):
    scope = {"cache": cache, "MODEL": "one", "calls": 0}
    exec(
        "@cache.cached\ndef ask(q):\n    global calls\n    calls += 1\n    return MODEL + q", scope
    )
    assert scope["ask"]("q") == scope["ask"]("q") == "oneq"
    assert scope["calls"] == 1
    scope["MODEL"] = "two"
    assert scope["ask"]("q") == "twoq"


def test_a_closure_that_is_bound_anew_counts_anew(cache):
    def make():
        system = ["brief"]

        @cache.cached
        def ask(q):
            return [*system, q]

        def change():
            nonlocal system
            system = ["verbose"]

        return ask, change

    ask, change = make()
    assert ask("q") == ["brief", "q"]
    change()
    assert ask("q") == ["verbose", "q"]


@pytest.mark.parametrize("kind", ["sync", "async"])
def test_a_generator_uses_the_options_of_its_call(cache, kind):
    tenant = ["alice"]

    @cache.cached(version="1")
    def answer(q):
        yield f"answer for {tenant[0]}"

    @cache.cached(version="1")
    async def aanswer(q):
        yield f"answer for {tenant[0]}"

    def ask():
        with options(namespace=tenant[0], ttl_seconds=5):
            stream = answer("balance?") if kind == "sync" else aanswer("balance?")
        if kind == "sync":
            return list(stream)

        async def read():
            return [chunk async for chunk in stream]

        return asyncio.run(read())

    assert ask() == ["answer for alice"]
    tenant[0] = "bob"
    assert ask() == ["answer for bob"]
    with options(namespace="bob"):
        ((_, entry),) = cache.engine.entries()
    assert entry.expires_at - entry.stored_at == pytest.approx(5)


def test_a_decorator_below_that_adds_arguments_still_works(cache):
    from functools import wraps

    def inject(fn):
        @wraps(fn)
        def wrapper(*args):
            return fn("client", *args)

        return wrapper

    @cache.cached
    @inject
    def ask(client, q):
        return client + q

    assert ask("q") == "clientq"


def test_settings_of_the_decorator_hold_for_each_of_its_calls():
    clock = [0.0]
    cache = LLMCache(clock=lambda: clock[0], ttl_seconds=3600)
    calls = []

    @cache.cached(ttl_seconds="1m", namespace="acme")
    def brief(question):
        calls.append(question)
        return question

    @cache.cached(mode="refresh")
    def always(question):
        calls.append(question)
        return question

    for _ in range(2):
        brief("q")
    clock[0] += 61
    brief("q")
    assert calls == ["q", "q"]
    with options(namespace="acme"):
        assert cache.stats().size == 1
    assert cache.stats().size == 0
    always("a"), always("a")
    assert calls[2:] == ["a", "a"]


@pytest.mark.parametrize("kind", ["coroutine", "generator", "async generator"])
def test_settings_of_the_decorator_hold_for_every_kind_of_function(cache, kind):
    calls = []

    if kind == "coroutine":

        @cache.cached(namespace="acme")
        async def ask(question):
            calls.append(question)
            return [question]

        def run():
            return asyncio.run(ask("q"))
    elif kind == "generator":

        @cache.cached(namespace="acme")
        def ask(question):
            calls.append(question)
            yield question

        def run():
            return list(ask("q"))
    else:

        @cache.cached(namespace="acme")
        async def ask(question):
            calls.append(question)
            yield question

        def run():
            async def collect():
                return [chunk async for chunk in ask("q")]

            return asyncio.run(collect())

    assert run() == run() == ["q"]
    assert calls == ["q"]
    assert cache.stats().size == 0
    with options(namespace="acme"):
        assert cache.stats().size == 1


def test_wrong_decorator_settings_fail_at_decoration(cache):
    with pytest.raises(ValueError, match="ttl_seconds"):
        cache.cached(ttl_seconds="soon")
    with pytest.raises(ValueError, match="mode must be one of"):
        cache.cached(mode="of")


def test_a_method_of_an_sdk_means_get_or_call():
    import openai

    calls = []

    def provider(request):
        calls.append(request)
        choice = {
            "index": 0,
            "message": {"role": "assistant", "content": "Paris."},
            "finish_reason": "stop",
        }
        body = {"id": "1", "object": "chat.completion", "created": 1, "model": "m"}
        return httpx2.Response(200, json={**body, "choices": [choice]})

    cache, messages = LLMCache(), [{"role": "user", "content": "hi"}]
    transport = httpx2.MockTransport(provider)
    with openai.OpenAI(api_key="k", http_client=httpx2.Client(transport=transport)) as client:
        create = cache.cached(client.chat.completions.create)
        assert create(model="m", messages=messages) == create(model="m", messages=messages)
        assert type(create(model="m", messages=messages)).__name__ == "ChatCompletion"
        again = cache.get_or_call(messages, client.chat.completions.create, model="m")
        assert again.choices[0].message.content == "Paris."
    assert (len(calls), cache.stats().hits) == (1, 3)

    async def ask():
        http = httpx2.AsyncClient(transport=transport)
        async with openai.AsyncOpenAI(api_key="k", http_client=http) as client:
            return await cache.cached(client.chat.completions.create)(model="m", messages=messages)

    assert asyncio.run(ask()) == again
    assert len(calls) == 1


class Near(list):
    reach = "1 km"


class Far(list):
    reach = "500 km"


class Region(str):
    code: str


def region(name, code):
    made = Region(name)
    made.code = code
    return made


@pytest.mark.parametrize(
    ("first", "second"),
    [
        (Near([1]), Far([1])),
        (region("Paris", "FR"), region("Paris", "TX")),
        (Counter(), {}),
        (OrderedDict(a=1, b=2), OrderedDict(b=2, a=1)),
        (b"x", bytearray(b"x")),
        (Near(), []),
    ],
)
def test_classes_made_from_builtins_count_with_their_state(cache, first, second):
    calls = []

    @cache.cached
    def ask(argument):
        calls.append(argument)
        return len(calls)

    assert [ask(first), ask(second), ask(first), ask(second)] == [1, 2, 1, 2]
