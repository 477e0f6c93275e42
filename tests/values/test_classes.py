"""Which classes come back: registered ones, as they were, and never by importing or because the
data says so."""

import dataclasses
import enum
import functools
import re
import sys
from collections.abc import Callable, Iterator
from datetime import datetime
from typing import Annotated, Any, ClassVar, Generic, NamedTuple, Optional, TypeVar

import pydantic
import pytest

from llm_cache_mem.errors import EntryUnreadable, ValueNotCacheable
from llm_cache_mem.values import classes
from llm_cache_mem.values.classes import register, register_package
from llm_cache_mem.values.payload import Payload

T = TypeVar("T")


@pytest.fixture(autouse=True)
def _own_registry(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a test registers, it registers for itself."""
    for name in ("_registered", "_names", "_refs", "_classes", "_complete", "_packages"):
        monkeypatch.setattr(classes, name, type(getattr(classes, name))(getattr(classes, name)))


class Address(pydantic.BaseModel):
    city: str


class Mood(enum.Enum):
    GOOD = 1


@dataclasses.dataclass
class Note:
    text: str
    sub: "Note | None" = None


class Item(pydantic.BaseModel):
    name: str = pydantic.Field(alias="itemName", min_length=1)
    count: int = 0
    address: Address | None = None
    moods: list[Mood] = []
    notes: dict[str, Note | None] = {}
    seen: datetime | None = None


class Open(pydantic.BaseModel):
    model_config = pydantic.ConfigDict(extra="allow")
    known: int = 1
    _secret: int = pydantic.PrivateAttr(default=7)

    @functools.cached_property
    def twice(self) -> int:
        return self.known * 2


class Strict(pydantic.BaseModel):
    model_config = pydantic.ConfigDict(frozen=True)
    loads: ClassVar[int] = 0
    value: Any = None

    @pydantic.model_validator(mode="after")
    def _count(self) -> "Strict":
        type(self).loads += 1
        return self


class Pair(NamedTuple):
    left: int = 1
    right: int = 2


class Box(pydantic.BaseModel, Generic[T]):
    inside: T


class Numbers(pydantic.RootModel[list[int]]):
    pass


def back(value: Any) -> Iterator[Any]:
    for payload in (Payload.of(value), Payload.from_json(Payload.of(value).json())):
        for _ in range(3):
            found = payload.decode()
            assert type(found) is type(value)
            yield found


def test_a_model_comes_back_as_it_was() -> None:
    register(Item)
    item = Item(
        itemName="x",
        address=Address(city="Paris"),
        moods=[Mood.GOOD],
        notes={"a": Note("n", Note("m"))},
        seen="2026-01-01T00:00Z",
    )
    for found in back(item):
        assert found == item
        assert found.model_fields_set == item.model_fields_set
        assert type(found.notes["a"].sub) is Note
        assert found.address is not item.address


def test_extra_fields_private_attributes_and_the_like_come_back() -> None:
    register(Open)
    value = Open(more={"a": (1,)})
    value._secret = 8
    object.__setattr__(value, "_request_id", "req_1")  # as the SDKs do
    assert value.twice == 2
    for found in back(value):
        assert found == value
        assert (found._secret, found.more, found.__dict__["_request_id"]) == (
            8,
            {"a": (1,)},
            "req_1",
        )
        assert found.twice == 2


def test_no_validator_runs_and_nothing_is_coerced() -> None:
    register(Strict)
    register(Item)
    value, odd = Strict(value=1), Item.model_construct(name=5, count="many")
    before = Strict.loads
    assert all(found == value for found in back(value))
    assert all(found == odd and found.count == "many" for found in back(odd))
    assert Strict.loads == before


def test_a_model_without_a_required_field_comes_back_without_it() -> None:
    register(Item)
    for found in back(Item.model_construct(count=2)):
        assert "name" not in found.__dict__
        assert found.count == 2


def test_a_root_model_and_a_generic_come_back() -> None:
    register(Numbers)
    register(Box)
    register(Address)
    for value in (
        Numbers([1, 2]),
        Box[Address](inside=Address(city="x")),
        Box[int](inside=1),
        Box(inside=2),
    ):
        assert all(found == value for found in back(value))


def test_a_generic_of_an_unregistered_class_is_refused() -> None:
    register(Box)
    with pytest.raises(ValueNotCacheable, match="register"):
        Payload.of(Box[Strict](inside=Strict()))


def test_registering_a_class_registers_those_its_fields_name() -> None:
    register(Item)
    for value in (Address(city="x"), Mood.GOOD, Note("n")):
        assert all(found == value for found in back(value))


def test_classes_of_one_name_may_name_each_other() -> None:
    first, second = (dataclasses.make_dataclass("Twin", [("other", int)]) for _ in range(2))
    outer = dataclasses.make_dataclass("Outer", [("first", first)])
    first.__annotations__["other"], second.__annotations__["other"] = second, first
    register(outer)
    assert sum(classes.class_ref(cls) is not None for cls in (first, second)) == 1


def test_instance_attributes_beside_fields_survive() -> None:
    @register
    class Named(NamedTuple("Base", [("x", int)])):
        pass

    value = Named(1)
    value.note = "kept nowhere"
    with pytest.raises(ValueNotCacheable, match="more than its fields"):
        Payload.of(value)
    note = register(Note) and Note("n")
    note.more = "kept"
    assert all(found.more == "kept" for found in back(note))


def test_half_made_instances_are_refused() -> None:
    register(Note)
    register(Address)
    register(Pair)
    for value in (object.__new__(Note), object.__new__(Address), tuple.__new__(Pair, (1,))):
        with pytest.raises(ValueNotCacheable, match="never set"):
            Payload.of([value])


def test_register_decorates() -> None:
    @register
    class Local(NamedTuple):
        x: int

    assert all(found == Local(1) for found in back(Local(1)))


def test_the_last_class_of_a_name_wins() -> None:
    """As when a notebook cell runs twice."""

    def cell() -> Any:
        @register
        @dataclasses.dataclass
        class Cell:
            x: int

        return Cell

    first, second = cell(), cell()
    stored = Payload.of(second(1)).json()
    assert type(Payload.from_json(stored).decode()) is second
    with pytest.raises(ValueNotCacheable, match="register"):
        Payload.of(first(1))


def cells(make: Callable[[], Any]) -> tuple[Any, Any]:
    """The class of a notebook cell that ran twice."""
    first = make()
    first.__qualname__ = "Cell"
    second = make()
    second.__qualname__ = "Cell"
    return first, second


REDEFINED: dict[str, Callable[[], Any]] = {
    "model": lambda: pydantic.create_model("Cell", x=(int, 1)),
    "dataclass": lambda: dataclasses.make_dataclass("Cell", [("x", int, 1)]),
    "enum": lambda: enum.Enum("Cell", {"x": 1}),
}


@pytest.mark.parametrize("kind", REDEFINED)
def test_hot_copy_of_a_replaced_class_is_not_used(kind: str) -> None:
    first, second = cells(REDEFINED[kind])
    register(first)
    payload = Payload.of({"value": first.x if kind == "enum" else first()})
    for _ in range(4):
        assert type(payload.decode()["value"]) is first
    register(second)
    for _ in range(4):
        assert type(payload.decode()["value"]) is second


def test_class_inside_a_registered_class_is_replaced_with_it() -> None:
    def cell() -> Any:
        class Inner(pydantic.BaseModel):
            x: int

        class Outer(pydantic.BaseModel):
            inner: Inner

        return register(Outer)(inner=Inner(x=1))

    first = cell()
    payload = Payload.of(first)
    second = cell()
    for _ in range(3):
        found = payload.decode()
        assert type(found) is type(second)
        assert type(found.inner) is type(second.inner)


ANNOTATED = pydantic.create_model("Cell", x=(Annotated[int, pydantic.Field(ge=1)], 1))


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (REDEFINED["model"](), pydantic.create_model("Cell", x=(str, "1"))),
        (REDEFINED["model"](), ANNOTATED),
        (
            pydantic.create_model("Cell", x=(list[int], [])),
            pydantic.create_model("Cell", x=(list[str], [])),
        ),
        (REDEFINED["dataclass"](), dataclasses.make_dataclass("Cell", [("x", str, "1")])),
        (REDEFINED["enum"](), enum.Enum("Cell", {"x": 2})),
        (Pair, NamedTuple("Pair", [("left", str), ("right", int)])),
    ],
    ids=["type", "constraint", "argument", "dataclass", "enum", "namedtuple"],
)
def test_old_shape_under_a_new_schema_is_unreadable(old: Any, new: Any) -> None:
    register(old, name="cell")
    value = old.x if isinstance(old, enum.EnumMeta) else old()
    payload = Payload.of(value)
    assert payload.decode() == value
    register(new, name="cell")
    with pytest.raises(EntryUnreadable, match="other fields"):
        payload.decode()


def test_shape_is_the_same_however_an_option_is_written() -> None:
    one = pydantic.create_model("Cell", x=(Optional[int], None))  # noqa: UP045
    other = pydantic.create_model("Cell", x=(int | None, None))
    register(one, name="cell")
    payload = Payload.of(one(x=1))
    register(other, name="cell")
    assert payload.decode() == other(x=1)


def test_entry_from_before_shapes_were_noted_is_read() -> None:
    register(Address, name="moved")
    stored = Payload.of(Address(city="x")).json()
    name = re.search(rb"moved#[0-9a-f]{8}", stored)
    assert name is not None
    before = stored.replace(name[0], b"moved")
    assert Payload.from_json(before).decode() == Address(city="x")


def test_a_name_of_its_own_outlives_a_move() -> None:
    stored = Payload.of(register(Note, name="note")("n")).json()
    assert b'"note#' in stored
    assert Payload.from_json(stored).decode() == Note("n")
    register(Item)  # whose fields name it
    assert Payload.of(Note("n")).json() == stored


@pytest.mark.parametrize(
    "cls", [int, str, dict, list, object, ValueError, type("Plain", (), {}), tuple]
)
def test_register_takes_only_rebuildable_classes(cls: type) -> None:
    with pytest.raises(TypeError, match="register"):
        register(cls)


@pytest.mark.parametrize(
    "change", [{"city": str, "zip": str}, {"town": str}, {}], ids=["added", "renamed", "removed"]
)
def test_a_class_whose_fields_changed_is_unreadable(change: dict[str, Any]) -> None:
    register(Address, name="moved")
    stored = Payload.of(Address(city="x")).json()
    register(
        pydantic.create_model("Address", **{name: (kind, None) for name, kind in change.items()}),
        name="moved",
    )
    with pytest.raises(EntryUnreadable, match="other fields"):
        Payload.from_json(stored).decode()


def test_a_dataclass_whose_fields_changed_is_unreadable() -> None:
    register(Note, name="moved")
    stored = Payload.of(Note("x")).json()
    register(dataclasses.make_dataclass("Note", ["text"]), name="moved")
    with pytest.raises(EntryUnreadable, match="other fields"):
        Payload.from_json(stored).decode()


def test_a_class_of_another_kind_is_unreadable() -> None:
    register(Note, name="moved")
    stored = Payload.of(Note("x")).json()
    register(pydantic.create_model("Note", text=(str, ...), sub=(Any, None)), name="moved")
    with pytest.raises(EntryUnreadable):
        Payload.from_json(stored).decode()


def test_a_class_not_registered_here_is_left_for_later() -> None:
    register(Note, name="later")
    stored = Payload.of(Note("x")).json()
    classes._registered.pop("later")
    classes._names.clear()
    with pytest.raises(EntryUnreadable) as caught:
        Payload.from_json(stored).decode()
    assert caught.value.newer
    register(Note, name="later")
    assert Payload.from_json(stored).decode() == Note("x")


def test_a_package_prefix_allows_loaded_modules_only(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    register_package(__name__)
    monkeypatch.setitem(sys.modules, __name__, sys.modules[Note.__module__])
    stored = Payload.of(Note("x")).json()
    assert Payload.from_json(stored).decode() == Note("x")
    classes._classes.clear()
    monkeypatch.delitem(sys.modules, Note.__module__)
    with pytest.raises(EntryUnreadable) as caught:
        Payload.from_json(stored).decode()
    assert caught.value.newer


UNKNOWN = [
    "os:system",
    "subprocess:Popen",
    "builtins:eval",
    "anthropic.types.nothing:X",
    "anthropic.types:sys",
    "openai.types:List",
    "x",
    "",
]


@pytest.mark.parametrize("name", UNKNOWN)
def test_a_name_in_the_data_is_no_permission(name: str) -> None:
    for tag, rest in (
        ("model", "{},null,null,{},[],[]"),
        ("dataclass", "{},{}"),
        ("namedtuple", "{}"),
        ("enum", '"x"'),
    ):
        with pytest.raises(EntryUnreadable):
            Payload.from_json(
                f'{{"$llm-cache-mem":{{"${tag}":["{name}",{rest}]}}}}'.encode()
            ).decode()
