"""JSON read strictly: one value, no NaN, no name twice in one object; what is wrong with a text is
told without quoting it."""

import json
from typing import Any

__all__ = ["NotJson", "decoder", "parse"]


class NotJson(ValueError):
    """What is wrong with a text; nothing of it is quoted."""


def parse(data: bytes, encoding: str = "utf-8") -> Any:
    """The value that *data* is the text of, with white space around it or not. NotJson for anything
    else."""
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


def _no_constant(token: str) -> Any:
    raise NotJson(f"{token} is not JSON")


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise NotJson("a name twice in one object")
    return found


decoder = json.JSONDecoder(parse_constant=_no_constant, object_pairs_hook=_object)
"""For those who deal with what else it raises: ValueError of other kinds, RecursionError."""
