"""Survey of a whole run: which fields of the requests cost most hits, and which key function would
win them back.

A field costs a hit if leaving it out makes a request equal to an earlier one. Age and capacity are
ignored: a request hits if an equal one came before it. Only names of fields and patterns are
reported, never the content of a request.
"""

from collections.abc import Iterable, Mapping
from html import escape
from typing import Any, NamedTuple

from llm_cache_mem._util.terminal import visible
from llm_cache_mem.accounting.render import table
from llm_cache_mem.diagnostics.fields import Fields, all_fields, contains, repeats
from llm_cache_mem.diagnostics.remedies import DECISIVE, Remedy, find_remedies, hits_with
from llm_cache_mem.keys import digest
from llm_cache_mem.keys.functions import last_turn
from llm_cache_mem.keys.request import parameter_names

__all__ = ["Cost", "Survey", "survey"]


class Cost(NamedTuple):
    """How many more *hits* there would be if *field* were not part of the key."""

    field: str
    hits: int


class Survey(NamedTuple):
    """The *hits* of so many *requests* with the present keys; the *costs* of fields, highest first;
    and *remedies*, each in addition to those before it.

    *last_turn_hits*: the hits if earlier turns of a conversation were not part of the key.
    """

    requests: int
    hits: int
    costs: tuple[Cost, ...]
    remedies: tuple[Remedy, ...]
    last_turn_hits: int

    def __str__(self) -> str:
        lines = [
            f"{self.requests:,} {'request' if self.requests == 1 else 'requests'},"
            f" {self.with_share(self.hits)} equal to an earlier one"
        ]
        if self.costs:
            costs = [(visible(cost.field), cost.hits) for cost in self.costs]
            width = max(len(field) for field, _ in costs)
            lines += [
                "",
                "fields that cost most hits",
                *(f"  {field:<{width}}  {hits:,}" for field, hits in costs),
            ]
        if self.remedies:
            lines += ["", "what would win them back, if it does not change the answer"]
            lines += [
                f"  {self.with_share(remedy.hits)} hits without {visible(remedy.why)}"
                for remedy in self.remedies
            ]
            lines += ["", f"  key_fn={visible(self.remedies[-1].key_fn)}"]
        if self.last_turn_hits > max([self.hits, *(remedy.hits for remedy in self.remedies)]):
            lines += [
                "",
                (
                    f"  {self.with_share(self.last_turn_hits)} hits with key_fn=last_turn, to which"
                    " earlier turns do not matter"
                ),
            ]
        if not self.costs and not self.remedies:
            lines += ["", "no single field stands between a request and an earlier one"]
        return "\n".join(lines)

    def _repr_html_(self) -> str:
        parts = [
            f"<p>{self.requests:,} requests, {self.with_share(self.hits)} equal to an earlier"
            " one</p>"
        ]
        if self.costs:
            rows = [(cost.field, f"{cost.hits:,}") for cost in self.costs]
            parts.append(table([("field that costs hits", "hits"), *rows]))
        if self.remedies:
            head = ("what would win them back, if it does not change the answer", "hits")
            rows = [(f"without {why}", self.with_share(hits)) for why, _, hits in self.remedies]
            parts.append(table([head, *rows]))
            parts.append(f"<p><code>key_fn={escape(self.remedies[-1].key_fn)}</code></p>")
        elif not self.costs:
            parts.append("<p>no single field stands between a request and an earlier one</p>")
        return "".join(parts)

    def as_dict(self) -> dict[str, Any]:
        """The same as plain JSON."""
        return self._asdict() | {
            name: [one._asdict() for one in getattr(self, name)] for name in ("costs", "remedies")
        }

    def with_share(self, hits: int) -> str:
        """*hits*, and which part of all requests that is."""
        return f"{hits:,} ({hits / self.requests if self.requests else 0.0:.1%})"


def survey(
    requests: Iterable[Mapping[str, Any]],
    *,
    ignore: Iterable[str] = digest.DEFAULT_IGNORE,
    keep: Iterable[str] = (),
    top: int = 10,
) -> Survey:
    """Find the fields of *requests* that cost most hits, and key functions that leave them out.

    The content of a conversation is not a field: without it all requests would be the same. Takes
    memory for the fields of each request. Costs are counted by hashes of fields, remedies by the
    keys that their key functions make.

    Args:
        requests: JSON objects: params, and ``messages`` if they have any.
        ignore: Params that are not part of the key, as in ``LLMCache(ignore=...)``.
        keep: Params that decide the answer, besides well-known ones such as ``model``: no remedy
            leaves them out.
        top: How many fields to report.

    Raises:
        ValueError: A request is not a JSON object.
    """
    ignored = parameter_names(ignore)
    read = [Fields(request, ignored) for request in requests]
    hits = hits_with(read, None)
    remedies = tuple(find_remedies(read, hits, DECISIVE.union(keep)))
    return Survey(len(read), hits, _costs(read, top), remedies, hits_with(read, last_turn))


def _costs(requests: list[Fields], top: int) -> tuple[Cost, ...]:
    """The *top* costs; of several fields that contain one another and cost the same, the
    narrowest."""
    now = repeats(one.total for one in requests)
    costs = []
    for field in all_fields(requests):
        hits = repeats(one.total - one.below.get(field, 0) for one in requests) - now
        if hits > 0:
            costs.append(Cost(field, hits))
    costs.sort(key=lambda cost: (-cost.hits, -len(cost.field)))
    found: list[Cost] = []
    for cost in costs:
        same = (other.field for other in found if other.hits == cost.hits)
        if not any(contains(cost.field, field) for field in same):
            found.append(cost)
    return tuple(found[:top])
