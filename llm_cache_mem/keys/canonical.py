"""The canonical form: a request as the JSON it is on the wire, or the place where it has none."""

from collections.abc import Callable, Mapping
from json.encoder import encode_basestring_ascii
from typing import Any

from llm_cache_mem._util.compiled import speedups
from llm_cache_mem._util.json_text import encoder
from llm_cache_mem.errors import RequestNotCacheable
from llm_cache_mem.keys.memo import Memo, size_of_texts
from llm_cache_mem.keys.wire_form import Refused, is_absent, tagged, unwrap

__all__ = ["MAX_DEPTH", "Walk", "encode", "escaped", "plain_request", "text_of"]

MAX_DEPTH = 128
"""Containers inside one another, the request itself counted; json stops near 1,000, depending on
who calls."""

_WORD = 1 << 63
_TAG = "$llm_cache_mem"
# a plain canonical text begins with a bracket or a scalar: never like this
_TAGGED_DOMAIN = "llm-cache-mem tagged request: "
_ABSENT: Any = object()


class Walk:
    """One pass over a request. *tags* counts the values without a JSON form."""

    __slots__ = ("tags",)

    def __init__(self) -> None:
        self.tags = 0

    def plain(self, value: Any, depth: int = MAX_DEPTH) -> Any:
        """A copy of *value* in dicts with str keys, lists, and exact str, int, float, bool and
        None; raises Refused."""
        tree = self._plain(value, depth)
        if tree is _ABSENT:
            raise Refused("a 'not given' marker stands for nothing here")
        return tree

    def _plain(self, value: Any, depth: int) -> Any:
        kind = type(value)
        if kind is dict:
            return self._dict(value.copy(), depth)
        if kind is list:
            return self._list(value.copy(), depth)
        if kind is str:
            return value if value.isascii() else _encodable(value)
        if kind is int:
            return value if -_WORD < value < _WORD else _printable(value)
        if kind is float:
            return _finite(value)
        return value if kind is bool or value is None else self._other(value, kind, depth)

    def _dict(self, own: dict[Any, Any], depth: int) -> dict[str, Any]:
        if depth <= 0:
            raise _too_deep()
        odd_keys = absent = False
        key: Any = None
        try:
            for key, item in own.items():
                if type(key) is not str or not key.isascii():
                    odd_keys = True
                if type(item) is not str or not item.isascii():
                    item = own[key] = self._plain(
                        item, depth - 1
                    )  # to a key that is there: safe while iterating
                    if item is _ABSENT:
                        absent = True
        except Refused as refused:
            raise refused.at(key) from None
        if absent:
            own = {key: item for key, item in own.items() if item is not _ABSENT}
        return _string_keys(own) if odd_keys else own

    def _list(self, own: list[Any], depth: int) -> list[Any]:
        if depth <= 0:
            raise _too_deep()
        index = 0
        try:
            for index, item in enumerate(own):
                if type(item) is not str or not item.isascii():
                    own[index] = self.plain(item, depth - 1)
        except Refused as refused:
            raise refused.at(index) from None
        return own

    def _other(self, value: Any, kind: type, depth: int) -> Any:
        marked = tagged(value, kind)
        if marked is not None:
            self.tags += 1
            return {_TAG: self._list(marked, depth)}
        if is_absent(kind):
            return _ABSENT
        simpler = unwrap(value)
        if simpler is value:
            raise Refused(f"{kind.__name__} has no JSON form")
        return self._plain(simpler, depth)


def _too_deep() -> Refused:
    return Refused(f"nested more than {MAX_DEPTH} levels deep, or inside itself")


def _encodable(value: str) -> str:
    try:
        value.encode("latin-1")  # a copy of memory where it applies
    except UnicodeEncodeError:
        try:
            value.encode()
        except UnicodeEncodeError:
            # "\ud83d" + "\ude00" would be written exactly as the one character U+1F600 is
            raise Refused("half of a surrogate pair, which is no text") from None
    return value


def _printable(value: int) -> int:
    try:
        int.__repr__(value)
    except ValueError:
        raise Refused(
            "an integer with more digits than Python writes (sys.set_int_max_str_digits)"
        ) from None
    return value


def _finite(value: float) -> float:
    if value - value != 0.0:
        raise Refused("NaN and infinity are not JSON")
    return value


def _string_keys(own: dict[Any, Any]) -> dict[str, Any]:
    """The same with the keys as json writes them, so that they sort as the strings they are."""
    written: dict[str, Any] = {}
    for key, item in own.items():
        try:
            name = _key(key)
        except Refused as refused:
            raise refused.at(key) from None
        if name in written:
            raise Refused("two keys are the same once they are strings")
        written[name] = item
    return written


def _key(key: Any) -> str:
    if not issubclass(type(key), (str, int, float, type(None))):
        raise Refused(f"{type(key).__name__} cannot be a key")
    key = Walk().plain(key)
    return key if type(key) is str else encode(key)


def plain_request(
    walk: Walk, messages: Any, params: Mapping[str, Any]
) -> tuple[Any, dict[str, Any]]:
    """Our own plain copy of both; raises RequestNotCacheable."""
    try:
        named = walk.plain(params)
        if type(named) is not dict:
            raise Refused("params must be a mapping")
        if "messages" in named:
            raise Refused("given twice").at("messages")
    except Refused as refused:
        raise refused.error() from None
    try:
        return walk.plain(messages, MAX_DEPTH - 1), named
    except Refused as refused:
        raise refused.error("messages") from None


encode: Callable[[Any], str] = encoder(
    separators=(", ", ": "), escape=encode_basestring_ascii, sort_keys=True, ensure_ascii=True
)
"""The canonical text of a plain value, as ``json.dumps(value, sort_keys=True)``; ValueError for NaN
and infinity."""

escaped = Memo(encode_basestring_ascii, size_of_texts)
"""The strings of recent requests as they stand in JSON: writing them takes most of the time, and
most strings of a conversation come again with its next turn."""

_encode_again: Callable[[Any], str] = encoder(
    separators=(", ", ": "), escape=escaped.get, sort_keys=True, ensure_ascii=True
)


def text_of(walk: Walk, tree: Any) -> str:
    """The canonical text of what *walk* made plain; raises RequestNotCacheable."""
    written = NotImplemented if speedups is None else speedups.canonical(tree)
    text: str = _encode_again(tree) if written is NotImplemented else written.decode()
    if not walk.tags:
        return text
    # A quote inside a string is escaped, so this counts keys and nothing else.
    if text.count(f'"{_TAG}": ') != walk.tags:
        raise RequestNotCacheable(
            "request", f"the key {_TAG} is taken when a request holds bytes, dates or the like"
        )
    return _TAGGED_DOMAIN + text
