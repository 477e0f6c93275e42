"""What a command finds, as plain dicts: the JSON that machines read, and what the tables for people
are made of."""

from typing import TYPE_CHECKING, Any, Final

from llm_cache_mem.accounting.bounded import MOST_NAMES, OTHER, slot
from llm_cache_mem.accounting.sums import Sums

if TYPE_CHECKING:
    from llm_cache_mem.stores.sqlite.survey import Part

__all__ = ["Summary"]

Row = dict[str, Any]

_MOST_SUMMED: Final = 100 * MOST_NAMES  # names of one kind while entries are read


class _Group(Sums):
    """Running sums over entries."""

    def __init__(self) -> None:
        super().__init__()
        self.expired = self.bytes = 0

    def add_row(self, row: Row) -> None:
        self.expired += row["expired"]
        self.bytes += row["bytes"]
        self.add(row["usage"] and tuple(row["usage"].values()), row["seconds"], row["cost_usd"])

    def add_part(self, part: "Part") -> None:
        self.calls += part.entries
        self.expired += int(part.expired)
        self.bytes += int(part.value_bytes)
        self.input_tokens += int(part.input_tokens)
        self.output_tokens += int(part.output_tokens)
        self.seconds += part.seconds
        self.cost_usd += part.cost_usd
        self.unpriced += int(part.unpriced)

    def add_group(self, other: "_Group") -> None:
        for name, amount in vars(other).items():
            setattr(self, name, getattr(self, name) + amount)

    def as_dict(self) -> Row:
        sums = dict(vars(self))
        return {"entries": sums.pop("calls"), **sums}


class Summary:
    """What a store holds, in all and by namespace, kind and model (``""``: the default namespace;
    no model known); names beyond the MOST_NAMES with most entries are summed under OTHER."""

    def __init__(self) -> None:
        self._all = _Group()
        self._oldest: float | None = None
        self._newest: float | None = None
        self._groups: dict[str, dict[str, _Group]] = {"namespace": {}, "kind": {}, "model": {}}

    def add(self, row: Row) -> None:
        self._all.add_row(row)
        self._add_times(row["stored_at"], row["stored_at"])
        for name, groups in self._groups.items():
            slot(groups, row[name] or "", _Group, _MOST_SUMMED).add_row(row)

    def add_part(self, namespace: str, kind: str, part: "Part") -> None:
        """Add the sums of entries that have these names in common."""
        self._all.add_part(part)
        self._add_times(part.oldest, part.newest)
        names = {"namespace": namespace, "kind": kind, "model": part.model}
        for name, groups in self._groups.items():
            slot(groups, names[name], _Group, _MOST_SUMMED).add_part(part)

    def _add_times(self, oldest: float, newest: float) -> None:
        self._oldest = oldest if self._oldest is None else min(self._oldest, oldest)
        self._newest = newest if self._newest is None else max(self._newest, newest)

    def as_dict(self) -> Row:
        """Groups by falling number of entries."""
        times = {"oldest_stored_at": self._oldest, "newest_stored_at": self._newest}
        return (
            self._all.as_dict()
            | times
            | {f"by_{name}": _ordered(groups) for name, groups in self._groups.items()}
        )


def _ordered(groups: dict[str, _Group]) -> dict[str, Row]:
    ordered = sorted(groups.items(), key=lambda item: (-item[1].calls, item[0]))
    largest = dict(ordered[:MOST_NAMES])
    for _, group in ordered[MOST_NAMES:]:
        slot(largest, OTHER, _Group, 0).add_group(group)
    return {name: group.as_dict() for name, group in largest.items()}
