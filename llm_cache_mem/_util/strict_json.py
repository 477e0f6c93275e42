"""JSON read strictly: one value, no NaN, no name twice in one object; what is wrong with a text is
told without quoting it."""

import json
import re
from typing import Any, Final

__all__ = ["MAX_CONTAINERS", "MAX_PARTS", "NotJson", "decoder", "has_too_many_parts", "parse"]

MAX_CONTAINERS: Final = 1_000_000
MAX_PARTS: Final = 4_000_000
"""How many objects and arrays, and how many commas and colons, stored JSON may hold: a list takes
thirty times the bytes of its text."""

_SMALL = 1024 * 1024  # bytes, in which no number of parts takes much memory
_CHUNK = 256 * 1024
_STRING = re.compile(rb'"(?:[^"\\]|\\.)*+("|\\?\Z)', re.DOTALL)  # the last may lack its end


class NotJson(ValueError):
    """What is wrong with a text; nothing of it is quoted."""


def parse(data: bytes, encoding: str = "utf-8") -> Any:
    """The value that *data* is the text of, with white space around it or not. NotJson for anything
    else."""
    if has_too_many_parts(data):
        raise NotJson("more parts than any request or answer has")
    try:
        return decoder.decode(data.decode(encoding))
    except NotJson:
        raise
    except json.JSONDecodeError as exc:
        raise NotJson(f"not JSON: {exc.msg}, at character {exc.pos + 1}") from None
    except UnicodeDecodeError:
        raise NotJson("not UTF-8") from None
    except RecursionError:
        raise NotJson("nested too deeply") from None
    except ValueError:
        raise NotJson("a number with too many digits") from None


def has_too_many_parts(data: bytes) -> bool:
    """Whether the JSON text *data* would take far more memory than its bytes, once decoded."""
    if len(data) <= _SMALL or not _over_limits(*_counts(data)):
        return False
    containers = parts = 0
    rest = b""  # the beginning of a string that goes on in the next chunk
    for start in range(0, len(data), _CHUNK):
        # the contents of strings do not count: leave their quotes
        text = _STRING.sub(rb'"\1', rest + data[start : start + _CHUNK])
        more_containers, more_parts = _counts(text)
        containers, parts = containers + more_containers, parts + more_parts
        if _over_limits(containers, parts):
            return True
        rest = text[text.rindex(b'"') :] if text.count(b'"') % 2 else b""
    return False


def _counts(data: bytes) -> tuple[int, int]:
    return data.count(b"[") + data.count(b"{"), data.count(b",") + data.count(b":")


def _over_limits(containers: int, parts: int) -> bool:
    return containers > MAX_CONTAINERS or parts > MAX_PARTS


def _no_constant(token: str) -> Any:
    raise NotJson(f"{token} is not JSON")


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise NotJson("a name twice in one object")
    return found


decoder = json.JSONDecoder(parse_constant=_no_constant, object_pairs_hook=_object)
"""For those who deal with what else it raises: ValueError of other kinds, RecursionError."""
