"""Link tables: a value that is read often is copied container by container, several times faster
than it is decoded."""

from typing import Any

from llm_cache_mem.values.classes import shape_of
from llm_cache_mem.values.scalars import scalars

__all__ = ["LinkTable", "link"]

_ATOMS = frozenset({str, int, float, bool, type(None), bytes})
_State = tuple[type, int, tuple[int | None, int | None, int] | None]


class _NotLinkable(Exception):
    """The value holds something that a shallow copy would share with its copy."""


class LinkTable:
    """The containers of one value, and which of them sits where in which. Immutable; may be copied
    from any thread.

    *generation* is that of the classes in the value, None if there are none.
    """

    __slots__ = ("_instances", "_links", "_root", "_shells", "generation")

    def __init__(
        self,
        shells: list[Any],
        instances: list[_State],
        links: list[tuple[int, Any, int]],
        root: int,
        generation: int | None,
    ) -> None:
        self.generation = generation
        self._shells = shells
        self._instances = instances
        self._links = links
        self._root = root

    def copy(self) -> Any:
        """A copy of the value that shares nothing that can change."""
        parts = [shell.copy() for shell in self._shells]
        for cls, state, model in self._instances:
            found: Any = object.__new__(cls)
            object.__setattr__(found, "__dict__", parts[state])
            if model is not None:
                extra, private, was_set = model
                object.__setattr__(
                    found, "__pydantic_extra__", None if extra is None else parts[extra]
                )
                object.__setattr__(
                    found, "__pydantic_private__", None if private is None else parts[private]
                )
                object.__setattr__(found, "__pydantic_fields_set__", parts[was_set])
            parts.append(found)
        for parent, key, child in self._links:
            parts[parent][key] = parts[child]
        return parts[self._root]


def link(value: Any, generation: int) -> LinkTable | None:
    """The link table of *value*, which becomes part of it and must not be handed out; None where a
    copy would not be safe. *generation* is that of the classes in *value*."""
    survey = _Survey()
    try:
        root = survey.place(value)
        for number, shell in enumerate(survey.shells):  # grows on the way
            survey.scan(number, shell)
    except _NotLinkable:
        return None
    return None if root is None else survey.table(root, generation)


class _Survey:
    """Numbers what can change: containers from 0 up, instances from -1 down until it is known how
    many containers there are."""

    def __init__(self) -> None:
        self.shells: list[Any] = []
        self.instances: list[_State] = []
        self.links: list[tuple[int, Any, int]] = []
        self.has_classes = False

    def place(self, item: Any) -> int | None:
        """The number of *item*, or None if it can be shared."""
        cls: Any = type(item)
        if cls in _ATOMS:
            return None
        if cls is dict or cls is list:
            return self.shell(item)
        if cls in (set, tuple, frozenset):
            if not _ATOMS.issuperset(map(type, item)):
                raise _NotLinkable
            return self.shell(item) if cls is set else None
        if cls in scalars():
            return None
        kind, names = shape_of(cls)
        self.has_classes = True
        if kind in ("model", "dataclass"):
            return self.instance(item, cls, None if kind == "model" else names)
        if kind == "enum":
            return None
        raise _NotLinkable

    def shell(self, container: Any) -> int:
        self.shells.append(container)
        return len(self.shells) - 1

    def instance(self, item: Any, cls: type, fields: tuple[str, ...] | None) -> int:
        """Place a dataclass with *fields*, or with None a pydantic model."""
        state = getattr(item, "__dict__", None)
        if type(state) is not dict or not state.keys() >= set(fields or ()):
            raise _NotLinkable  # fields in slots
        model = None
        if fields is None:
            was_set = self.shell(item.__pydantic_fields_set__)
            model = (
                self.place(item.__pydantic_extra__),
                self.place(item.__pydantic_private__),
                was_set,
            )
        self.instances.append((cls, self.shell(state), model))
        return -len(self.instances)

    def scan(self, number: int, shell: Any) -> None:
        if type(shell) is set:
            return
        for key, item in shell.items() if type(shell) is dict else enumerate(shell):
            child = self.place(item)
            if child is not None:
                self.links.append((number, key, child))

    def table(self, root: int, generation: int) -> LinkTable:
        first = len(self.shells) - 1

        def final(number: int) -> int:
            return number if number >= 0 else first - number

        return LinkTable(
            self.shells,
            self.instances,
            [(parent, key, final(child)) for parent, key, child in self.links],
            final(root),
            generation if self.has_classes else None,
        )
