"""How griffe reads the project for pages.

Arguments and fields that a docstring explains one after the other, in running text, are a list on a
page; and what ``__init__`` assigns to an attribute is no value that it has.
"""

import re
from typing import Any

import griffe

__all__ = ["Reading", "as_lists"]

_ITEM = r"\*\w+\*(?:(?:, | and )\*\w+\*)*: "
_NEXT_ITEM = re.compile(rf"(?<=[.;)])\s+(?={_ITEM})")


def as_lists(text: str) -> str:
    """*text* with every paragraph that explains two or more of them taken apart: what comes before,
    then an item for each."""
    return "\n\n".join(_apart(paragraph) for paragraph in text.split("\n\n"))


def _apart(paragraph: str) -> str:
    pieces = _NEXT_ITEM.split(paragraph)
    begins = re.match(_ITEM, pieces[0]) is not None
    if len(pieces) < 2 or (len(pieces) == 2 and not begins):
        return paragraph
    items = "\n".join(
        "- " + piece.replace("\n", "\n  ") for piece in (pieces if begins else pieces[1:])
    )
    return items if begins else f"{pieces[0]}\n\n{items}"


class Reading(griffe.Extension):
    """Looks at every object once it is read."""

    def on_object(self, *, obj: griffe.Object, **kwargs: Any) -> None:
        if obj.docstring is not None:
            obj.docstring.value = as_lists(obj.docstring.value)
        if (
            isinstance(obj, griffe.Attribute)
            and "instance-attribute" in obj.labels
            and "class-attribute" not in obj.labels
        ):
            obj.value = None
