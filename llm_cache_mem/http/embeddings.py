"""Embeddings text by text: where a protocol has the texts of a request, and the vectors and usage
of an answer, so that a request for many becomes an entry for each, and entries become an answer.

A provider reports its tokens for a request, not for a text. Of texts that were sent together each
is given its share by the number of its words, or of its tokens where those were sent; the shares
add up to what was reported.
"""

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import accumulate
from json import dumps
from typing import Any, Final, NamedTuple

from llm_cache_mem._util.reprs import without_content
from llm_cache_mem.http.request import Asked, asked
from llm_cache_mem.values.vectors import packed, unpacked

__all__ = ["PROTOCOLS", "Batch", "Protocol", "Row", "batch_of"]

Fields = dict[str, Any]
Path = tuple[str, ...]


class Protocol(NamedTuple):
    """How the embeddings of one API are asked for and answered.

    Attributes:
        path: What the end of the URL's path matches.
        field: The field of the body in which the texts are; "" if the body is one text's.
        columns: Where an answer has a list with an item for each text; "*" is any field.
        usage: Where it has what the call took.
        own: The field of a text's own settings in which its text is, where texts have settings.
        together: The end of the path under which texts are asked for together, if it is another.
    """

    path: str
    field: str
    columns: tuple[Path, ...]
    usage: tuple[Path, ...]
    own: str = ""
    together: str = ""


_GEMINI_USAGE: Final = (("usageMetadata",), ("metadata",))

PROTOCOLS: Final = (
    # OpenAI, Azure, Mistral, Voyage and those like them
    Protocol(r"/embeddings", "input", (("data",),), (("usage",),)),
    Protocol(r"/api/embed", "input", (("embeddings",),), (("prompt_eval_count",),)),  # Ollama
    Protocol(  # Cohere
        r"/v[12]/embed",
        "texts",
        (("embeddings",), ("embeddings", "*"), ("texts",)),
        (("meta", "billed_units"), ("meta", "tokens")),
    ),
    Protocol(  # Gemini
        r"(?::|%3A)batchEmbedContents", "requests", (("embeddings",),), _GEMINI_USAGE, "content"
    ),
    Protocol(
        r"(?::|%3A)embedContent",
        "",
        (("embedding",),),
        _GEMINI_USAGE,
        "content",
        ":batchEmbedContents",
    ),
)
_TABLE: Final = tuple((re.compile(rf"(?:{one.path})/?$"), one) for one in PROTOCOLS)
_SIGNATURES: Final = frozenset(
    {"content-digest", "content-md5", "digest", "signature", "x-amz-content-sha256"}
)
_WORD: Final = re.compile(r"\w+|[^\w\s]")


@without_content
class Row(NamedTuple):
    """The answer to one text: its *items* by the columns they are from, and the *rest* of the
    answer, in which usage is that of this text. *headers* are those of the response."""

    items: Fields
    rest: Fields
    headers: list[list[str]]

    def stored(self) -> list[Any]:
        """What to store."""
        return [packed(self.items), self.rest, self.headers]

    @classmethod
    def of(cls, stored: Any) -> "Row":
        """The row of which ``stored`` made this."""
        items, rest, headers = stored
        return cls(unpacked(items), dict(rest), list(headers))


class Batch(NamedTuple):
    """A request for embeddings of *items*, the texts with what is their own, in the caller's order;
    *asks* has a request for each. *fields* is the rest of the body."""

    protocol: Protocol
    fields: Fields
    items: list[Any]
    asks: list[Asked]

    def __repr__(self) -> str:
        return f"Batch({len(self.items)} texts)"

    def is_whole(self, numbers: Sequence[int]) -> bool:
        """Whether the items with these *numbers* are the caller's own request."""
        return len(numbers) == len(self.items)

    def body(self, numbers: Sequence[int]) -> bytes:
        """The body of a request for the items with these *numbers*."""
        items = [self.items[number] for number in numbers]
        return dumps({**self.fields, self.protocol.field: items}).encode()

    def rows(
        self, numbers: Sequence[int], answer: Any, headers: list[list[str]]
    ) -> list[Row | None] | None:
        """What *answer* has for each of the items with these *numbers*, None where it has nothing;
        None if it is no answer to them."""
        if type(answer) is not dict or "error" in answer:
            return None
        rest, columns = _copied(answer), {}
        for path in self.protocol.columns:
            for found in _expanded(path, answer):
                items = _items(_at(found, answer), len(numbers), self.protocol)
                if items is not None:
                    columns[".".join(self._named(found))] = items
                    _put(rest, found, None)
        if not columns.keys() - {"texts"}:
            return None
        weights = [_weight(self.items[number]) for number in numbers]
        shares = self._shares(answer, weights)
        return [
            None
            if any(_is_empty(items[at]) for items in columns.values())
            else Row(
                {name: items[at] for name, items in columns.items()},
                _with(rest, shares, at),
                headers,
            )
            for at in range(len(numbers))
        ]

    def answer(self, rows: Sequence[Row], paid: Callable[[int], bool]) -> Fields | None:
        """The answer to the caller's request from the *rows* of its items. Those that are not
        *paid* count no tokens. None if they do not fit together."""
        first = rows[0]
        if any(row.items.keys() != first.items.keys() for row in rows):
            return None
        made: Fields = _copied(first.rest)
        for name in first.items:
            column = [_placed(row.items[name], at) for at, row in enumerate(rows)]
            if not self.protocol.field:
                made.pop("embeddings", None)
                made["embedding"] = column[0]
                continue
            made.pop("embedding", None)
            _put(made, tuple(name.split(".", 1)), column)
        for path in self.protocol.usage:
            parts = [_scaled(_at(path, row.rest), paid=paid(at)) for at, row in enumerate(rows)]
            if parts[0] is not None:
                _put(made, path, _total(parts))
        return made

    def _named(self, path: Path) -> Path:
        """One name for the column of a text alone and of texts together."""
        return path if self.protocol.field else ("embeddings",)

    def _shares(self, answer: Fields, weights: list[int]) -> dict[Path, list[Any]]:
        return {
            path: _apportioned(value, weights)
            for path in self.protocol.usage
            if (value := _at(path, answer)) is not None
        }


def batch_of(
    base_url: str,
    path: str,
    query: str,
    headers: Iterable[tuple[str, str]],
    fields: Fields,
) -> Batch | None:
    """The request for embeddings that a body with these *fields* is, text by text; None if it is
    none, or one of another form: of images, or with a signature of its body."""
    protocol = next((one for ends, one in _TABLE if ends.search(path)), None)
    headers = list(headers)
    if protocol is None or any(name.lower() in _SIGNATURES for name, _ in headers):
        return None
    if fields.get("late_chunking"):  # each vector depends on the whole list
        return None
    listed = _listed(protocol, fields)
    if not listed or not all(map(_is_text, listed)):
        return None
    rest = {name: value for name, value in fields.items() if name != protocol.field}
    if not protocol.field:
        rest, path = {}, re.sub(rf"{protocol.path}$", protocol.together, path)
    base = asked(base_url, path, query, headers, dict(rest))
    if base.messages is not None:  # it says something beside its texts
        return None
    return Batch(protocol, rest, listed, [_ask(protocol, base, item) for item in listed])


def _listed(protocol: Protocol, fields: Fields) -> list[Any] | None:
    """The texts of a request, one by one."""
    if not protocol.field:
        return [fields]
    given = fields.get(protocol.field)
    if type(given) is str or (type(given) is list and given and type(given[0]) is int):
        return [given]
    return given if type(given) is list else None


def _is_text(item: Any) -> bool:
    """Whether *item* is a text, the tokens of one, or a text with its settings."""
    if type(item) is list:
        return bool(item) and all(type(token) is int for token in item)
    return type(item) is str or (type(item) is dict and type(item.get("content")) is dict)


def _ask(protocol: Protocol, base: Asked, item: Any) -> Asked:
    """The request for one *item*: that for it alone, as ``request.read`` has it."""
    params = dict(base.params)
    if type(item) is dict:
        own = {name: value for name, value in item.items() if name != protocol.own}
        named, model = own.get("model"), params.get("model")
        if type(named) is str and named.rpartition("/")[2] == model:
            del own["model"]
        return Asked(item[protocol.own], {**params, **own, "http.source": protocol.own}, base.state)
    source = base.params.get("http.source", "")
    if type(item) is str:
        params["http.source"] = f"{protocol.field} text{source}"
        return Asked([{"role": "user", "content": item}], params, base.state)
    params["http.source"] = f"{protocol.field}{source}"
    return Asked(item, params, base.state)


# -- Answers


def _expanded(path: Path, answer: Fields) -> Iterator[Path]:
    if path[-1] != "*":
        yield path
        return
    holder = _at(path[:-1], answer)
    if type(holder) is dict:
        yield from ((*path[:-1], name) for name in holder)


def _at(path: Path, holder: Any) -> Any:
    for name in path:
        if type(holder) is not dict:
            return None
        holder = holder.get(name)
    return holder


def _put(holder: Fields, path: Path, value: Any) -> None:
    for name in path[:-1]:
        if type(holder.get(name)) is not dict:
            holder[name] = {}
        holder = holder[name]
    holder[path[-1]] = value


def _copied(answer: Any) -> Any:
    """*answer* with objects of its own; lists stay what they are."""
    if type(answer) is dict:
        return {name: _copied(value) for name, value in answer.items()}
    return answer


def _items(column: Any, number: int, protocol: Protocol) -> list[Any] | None:
    """A column as one item for each text, in their order."""
    if not protocol.field:
        return [column] if type(column) is dict else None
    if type(column) is not list:
        return None
    indexes = [item.get("index") for item in column if type(item) is dict]
    if indexes and all(type(index) is int and 0 <= index < number for index in indexes):
        by_index = dict(zip(indexes, column, strict=False))
        if len(by_index) == len(column):
            return [by_index.get(index) for index in range(number)]
    return column if len(column) == number else None


def _is_empty(item: Any) -> bool:
    """Whether *item* is no vector, or an object whose vector is empty."""
    vector = item.get("embedding", item) if type(item) is dict else item
    return vector is None or vector == []


def _placed(item: Any, at: int) -> Any:
    return {**item, "index": at} if type(item) is dict and "index" in item else item


# -- Usage


def _weight(item: Any) -> int:
    """About how many tokens *item* has; exactly, if it is tokens."""
    if type(item) is list:
        return len(item)
    text = item if type(item) is str else " ".join(_strings(item))
    return max(1, len(_WORD.findall(text)))


def _strings(value: Any) -> Iterator[str]:
    if type(value) is str:
        yield value
    elif isinstance(value, Mapping):
        for name, inner in value.items():
            if name in ("content", "parts", "text"):
                yield from _strings(inner)
    elif type(value) is list:
        for inner in value:
            yield from _strings(inner)


def _apportioned(value: Any, weights: list[int]) -> list[Any]:
    """*value* as a share for each of *weights*: numbers add up to what they were."""
    if type(value) is dict:
        parts = {name: _apportioned(inner, weights) for name, inner in value.items()}
        return [{name: part[at] for name, part in parts.items()} for at in range(len(weights))]
    whole = sum(weights)
    if type(value) is int:
        ends = [value * end // whole for end in accumulate(weights)]
        return [end - start for start, end in zip([0, *ends], ends, strict=False)]
    if type(value) is float:
        return [value * weight / whole for weight in weights]
    return [value] * len(weights)


def _with(rest: Fields, shares: Mapping[Path, list[Any]], at: int) -> Fields:
    made: Fields = _copied(rest)
    for path, parts in shares.items():
        _put(made, path, parts[at])
    return made


def _scaled(value: Any, *, paid: bool) -> Any:
    if paid:
        return value
    if type(value) is dict:
        return {name: _scaled(inner, paid=False) for name, inner in value.items()}
    return type(value)(0) if type(value) in (int, float) else value


def _total(parts: list[Any]) -> Any:
    first = parts[0]
    if type(first) is dict:
        rest = [part if type(part) is dict else {} for part in parts]
        return {name: _total([part.get(name, 0) for part in rest]) for name in first}
    if type(first) in (int, float):
        return sum(part for part in parts if type(part) in (int, float))
    return first
