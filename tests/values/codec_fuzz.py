"""Hostile bytes for the codec, in a process of their own that counts what they make Python do.

``python codec_fuzz.py SEED ROUNDS`` prints one JSON object: what was tried, and what should not
have happened.
"""

import dataclasses
import datetime
import decimal
import enum
import json
import marshal
import pickle
import random
import resource
import struct
import sys
import types
import uuid
import zlib
from collections.abc import Callable
from hashlib import sha256
from typing import Any, NamedTuple

import pydantic

from llm_cache_mem.errors import EntryUnreadable
from llm_cache_mem.values.classes import register, register_package
from llm_cache_mem.values.entry import Entry
from llm_cache_mem.values.payload import Payload

KEY = "1:default:call:" + "0" * 64
HARMLESS = (type(None), bool, int, float, str, bytes, list, dict, tuple, set, frozenset)
HARMLESS += (datetime.date, datetime.time, datetime.timedelta, decimal.Decimal, uuid.UUID)
NAMES = [
    "os:system",
    "subprocess:Popen",
    "builtins:eval",
    "builtins:object",
    "pathlib:Path",
    "lazy.types:Thing",
    "lazy.types:os",
]
NAMES += [
    "lazy:Thing",
    "__main__:Unregistered",
    "__main__:Point.__init__",
    "importlib:import_module",
    "antigravity:x",
    "x",
    "",
    ":",
]


@register
@dataclasses.dataclass
class Point:
    x: Any
    y: Any = None


@register
class Model(pydantic.BaseModel):
    model_config = pydantic.ConfigDict(extra="allow")
    name: str
    points: list[Any] = []


@register
class Pair(NamedTuple):
    left: Any
    right: Any


@register
class Mood(enum.Enum):
    GOOD = 1


@dataclasses.dataclass
class Unregistered:
    x: int = 1


OURS = (Point, Model, Pair, Mood)


class Explosive:
    """What pickle would run."""

    def __reduce__(self) -> Any:
        return exec, ("import os; os.system('true')",)


def corpus() -> list[Any]:
    now = datetime.datetime(2026, 1, 1, tzinfo=datetime.UTC)
    message = {
        "id": "msg_1",
        "content": [{"type": "text", "text": "Grüße " * 20}],
        "usage": {"input_tokens": 12, "output_tokens": 3.5},
    }
    scalars = [
        now,
        now.date(),
        now.time(),
        datetime.timedelta(1),
        decimal.Decimal("1.5"),
        uuid.UUID(int=1),
        b"\x00",
        float("nan"),
        "\ud83d",
    ]
    models = Model(name="n", points=[Point(1, Pair((), {3})), Mood.GOOD], more={"$ref": 1})
    return [
        message,
        scalars,
        models,
        {1: (2, frozenset({3}))},
        [models, {"$tuple": [1]}],
        Pair(Point(message, 1), None),
    ]


def gadgets() -> list[bytes]:
    found = [
        pickle.dumps(value, protocol)
        for value in (Explosive(), print, [1], Exception())
        for protocol in range(6)
    ]
    found += [marshal.dumps(compile("1", "x", "eval")), marshal.dumps(corpus()[0], 4)]
    found += [
        b"\xc7\x05\x01abcde",
        b"\xd4\x01\x00",
        b"\xc8\xff\xff\x02" + b"a" * 9,
    ]  # msgpack extension types
    found += [
        b"!!python/object/apply:os.system ['true']",
        b"__import__('os').system('true')",
        b"cos\nsystem\n(S'true'\ntR.",
    ]
    lc = {
        "lc": 1,
        "type": "constructor",
        "id": ["langchain", "llms", "openai", "OpenAI"],
        "kwargs": {},
    }
    found += [
        json.dumps(part).encode()
        for part in (lc, {**lc, "type": "secret", "id": ["PATH"]}, {"py/object": "os.system"})
    ]
    bomb = zlib.compress(b"[" * 10_000_000)
    found += [bomb, b"\x1f\x8b" + bomb, b"\x28\xb5\x2f\xfd" + bomb]
    deep = 100_000
    found += [
        b"[" * deep,
        b"[" * deep + b"]" * deep,
        b'{"a":' * deep,
        b'{"a":' * deep + b"1" + b"}" * deep,
    ]
    found += [
        wrap(b'{"$tuple":[' * deep + b"]}" * deep),
        wrap(b'{"$tuple":[' * 300 + b"]}" * 300),
        wrap(b"[" * 900 + b"]" * 900),
    ]
    found += [
        b"1" * 1_000_000,
        b"-" + b"9" * 5_000,
        b"1e999999999",
        b"0." + b"1" * 1_000_000,
        wrap(b'{"$decimal":"1E+999999999999999999"}'),
    ]
    found += [
        b"NaN",
        b"[Infinity]",
        b'{"a":-Infinity}',
        b'{"a":1,"a":2}',
        b'{"$llm-cache-mem":1,"$llm-cache-mem":2}',
    ]
    found += [
        '"é"'.encode(coding) for coding in ("utf-16", "utf-32", "utf-16-le", "latin-1", "utf-8-sig")
    ]
    found += [
        b"",
        b" ",
        b"\x00",
        b"\xff" * 100,
        b'"\\ud800"',
        b'"\\udc00\\ud800"',
        b'"unfinished',
        b"[1,]",
        b"{}{}",
        b"\xed\xa0\x80",
    ]
    tags = [
        "dict",
        "tuple",
        "set",
        "frozenset",
        "float",
        "str",
        "bytes",
        "datetime",
        "time",
        "date",
        "timedelta",
        "decimal",
        "uuid",
    ]
    bodies = [
        "null",
        "1",
        '"x"',
        "[]",
        "[[]]",
        "{}",
        '{"$dict":[[[],1]]}',
        "[1,2,3,4,5,6,7]",
        "1e400",
    ]
    found += [
        wrap(f'{{"${tag}":{body}}}'.encode())
        for tag in [*tags, "enum", "model", "x", ""]
        for body in bodies
    ]
    kinds = {
        "model": "{},null,null,{},[],[]",
        "dataclass": "{},{}",
        "namedtuple": "{}",
        "enum": '"x"',
    }
    found += [
        wrap(f'{{"${kind}":["{name}",{rest}]}}'.encode())
        for kind, rest in kinds.items()
        for name in NAMES
    ]
    found += [
        wrap(f'{{"${kind}":[["{name}","builtins:int"],{rest}]}}'.encode())
        for kind, rest in kinds.items()
        for name in NAMES[:4]
    ]
    mine = '"__main__:Model",{"name":1,"points":2}'
    state = [
        "[],null,{},[],[]",
        "null,[],{},[],[]",
        "null,null,[],[],[]",
        "null,null,{},[[]],[]",
        'null,null,{"__class__":1},5,[]',
    ]
    return found + [wrap(f'{{"$model":[{mine},{rest}]}}'.encode()) for rest in state]


def wrap(tree: bytes) -> bytes:
    return b'{"$llm-cache-mem":' + tree + b"}"


def seal(sealed: bytes) -> bytes:
    name = KEY.encode()
    return (
        sealed + sha256(b"llm-cache-mem entry\0%d:%b%b" % (len(name), name, sealed)).digest()[:16]
    )


def envelope(body: bytes) -> bytes:
    """A valid envelope around any body."""
    empty = Entry(Payload.from_json(b""), 1.0).pack(KEY)[:-16]
    return seal(empty[:-4] + struct.pack("<I", len(body)) + body)


TOKENS = [
    b'"$model"',
    b'"$dict":[[',
    b'{"$tuple":',
    b"null",
    b"[",
    b"}",
    b'"os:system"',
    b"1e400",
    b"\\ud800",
]
TAGS = [
    b"$model",
    b"$dataclass",
    b"$enum",
    b"$tuple",
    b"$set",
    b"$bytes",
    b"$dict",
    b"$float",
    b"$namedtuple",
]


def mutated(choose: random.Random, data: bytes, others: list[bytes]) -> bytes:
    found = bytearray(data)
    for _ in range(choose.randint(1, 4)):
        at = choose.randrange(len(found) + 1)
        match choose.randrange(5):
            case 0 if at < len(found):
                found[at] = choose.randrange(256)
            case 1:
                del found[at : at + choose.randint(1, 20)]
            case 2:
                other = choose.choice(others)
                start = choose.randrange(len(other))
                found[at:at] = other[start : start + choose.randint(1, 60)]
            case 3:
                found[at:at] = choose.choice(TOKENS)
            case _:
                found = found.replace(choose.choice(TAGS), choose.choice(TAGS), 1)
    return bytes(found)


def forbidden_type(value: Any) -> str | None:
    """The type of the first part of *value* that nobody allowed."""
    pending = [value]
    while pending:
        item = pending.pop()
        if not isinstance(item, HARMLESS + OURS):
            return type(item).__qualname__
        if isinstance(item, dict):
            pending += [*item.keys(), *item.values()]
        elif isinstance(item, (list, tuple, set, frozenset)):
            pending += item
        elif isinstance(item, (Point, Model)):
            pending += item.__dict__.values()
    return None


class Trial:
    """Reads hostile bytes and writes down everything but a miss and a harmless value."""

    watched = frozenset(
        {
            "exec",
            "import",
            "open",
            "compile",
            "subprocess",
            "os",
            "pickle",
            "marshal",
            "ctypes",
            "socket",
        }
    )

    def __init__(self) -> None:
        self.armed = False
        self.served = 0
        self.bad: list[str] = []

    def watch(self, event: str, arguments: Any) -> None:
        if self.armed and event.split(".")[0] in self.watched:
            self.bad.append(f"{event} {arguments!r:.80}")

    def from_json(self, data: bytes) -> None:
        self._attempt(lambda: Payload.from_json(data), data)

    def unpack(self, data: bytes) -> None:
        self._attempt(lambda: Entry.unpack(KEY, data).payload, data)

    def _attempt(self, read: Callable[[], Payload], data: bytes) -> None:
        try:
            payload = read()
            payload.decode()
            value = payload.decode()
        except EntryUnreadable:
            return
        except BaseException as exc:
            self.bad.append(f"{type(exc).__name__} {exc!s:.80} from {data[:80]!r}")
            return
        self.served += 1
        kind = forbidden_type(value)
        if kind is not None:
            self.bad.append(f"a {kind} from {data[:80]!r}")


def main(seed: int, rounds: int) -> dict[str, Any]:
    lazy = types.ModuleType("lazy.types")
    lazy.__getattr__ = lambda name: sys.exit("a module was asked for " + name)  # type: ignore[method-assign]
    sys.modules["lazy.types"] = lazy
    register_package("lazy.types")
    bodies = [Payload.of(value).json() for value in corpus()]
    packed = [Entry(Payload.of(value), 1.0, model="m").pack(KEY) for value in corpus()]
    assert all(Entry.unpack(KEY, data).payload.decode() is not None for data in packed)
    assert all(Entry.unpack(KEY, envelope(body)).payload.decode() is not None for body in bodies)
    hand_made = gadgets()
    trial, choose = Trial(), random.Random(seed)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for payload in [Payload.of([1])] * 3:  # what is loaded when it is first needed: by now it is
        payload.decode()
    sys.addaudithook(trial.watch)
    trial.armed = True
    for gadget in hand_made:
        trial.from_json(gadget)
        trial.unpack(gadget)
        trial.unpack(envelope(gadget))
    for _ in range(rounds // 4):
        trial.unpack(mutated(choose, choose.choice(packed), packed))
        trial.unpack(seal(mutated(choose, choose.choice(packed)[:-16], packed)))
        trial.unpack(envelope(mutated(choose, choose.choice(bodies), bodies)))
        trial.from_json(choose.randbytes(choose.randint(0, 200)))
    trial.armed = False
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    return {
        "gadgets": len(hand_made),
        "rounds": rounds,
        "served": trial.served,
        "grown_kib": grown,
        "bad": trial.bad[:20],
    }


if __name__ == "__main__":
    print(json.dumps(main(int(sys.argv[1]), int(sys.argv[2]))))
