"""folding: a key function for which two spellings of the last question are one."""

import re
from typing import Any, Final
from unicodedata import normalize

from llm_cache_mem.keys.functions import is_from_user, simpler

__all__ = ["folded_text", "folding", "with_last_text_folded"]

_VERBATIM: Final = r"""(?mx)
(?P<fence>```|~~~)[\s\S]*?(?:(?P=fence)|\Z)      # code, to its end or that of the text
| `[^`]*(?:`|\Z)
| (?:^|\n)(?:[ ]{4}|\t)[^\n]*\n?                 # code that is indented
| (?:^|\n)[ ]{0,3}>[^\n]*\n?                     # quoted lines
| "[^"]*(?:"|\Z) | “[^”]*(?:”|\Z) | „[^“”]*(?:[“”]|\Z) | «[^»]*(?:»|\Z) | 「[^」]*(?:」|\Z)
| (?<!\w)'[^'\n]*'(?!\w) | (?<!\w)‘[^’\n]*’(?!\w)
| \S*(?:[a-z\d][A-Z]|\w[_/\\=@\#$:.(){}\[\]<>]+\w|\w\(\))(?:\S*[\w)\]}>])?  # names as in code
"""
"""Matches text whose case and space count: code, quotations, and names written as in code. The
patterns are compiled when first used."""
_END_MARK: Final = r"(?<=[^\s.!?…。！？؟])\s*[.!?。！？؟]\Z"


def folding(messages: Any, **params: Any) -> Any:
    """All messages and params, with case, white space, Unicode form and an end mark of the last
    text of the user folded.

    Code and quoted text in it stay as they are, and so does all that comes before it. It chains
    with other key functions by ``compose``.

    Example:
        >>> cache = LLMCache(key_fn=folding)
    """
    return {"folding": {"messages": with_last_text_folded(messages), **params}}


def with_last_text_folded(messages: Any) -> Any:
    """*messages* with the last text of the user folded."""
    listed = simpler(messages)
    if type(listed) is str:
        return folded_text(listed)
    if type(listed) is not list:
        return messages
    place = max((i for i, message in enumerate(listed) if is_from_user(message)), default=None)
    if place is None:
        return messages
    return [*listed[:place], _folded(listed[place]), *listed[place + 1 :]]


def _folded(message: Any) -> Any:
    plain = simpler(message)
    if type(plain) is str:
        return folded_text(plain)
    if type(plain) is not dict:
        return message
    content = simpler(plain.get("content"))
    if type(content) is str:
        return {**plain, "content": folded_text(content)}
    if type(content) is not list:
        return plain
    parts = [simpler(part) for part in content]
    texts = [i for i, part in enumerate(parts) if type(part) is dict and _is_text(part)]
    if texts:
        part = parts[texts[-1]]
        parts[texts[-1]] = {**part, "text": folded_text(part["text"])}
    return {**plain, "content": parts}


def _is_text(part: dict[str, Any]) -> bool:
    return type(part.get("text")) is str and part.get("type", "text") in ("text", "input_text")


def folded_text(text: str) -> str:
    """*text* in lower case, with single spaces, as NFC and without an end mark, but for the code
    and the quoted text in it."""
    pieces = []
    at = 0
    for verbatim in re.finditer(_VERBATIM, text):
        pieces += [_plain(text[at : verbatim.start()]), verbatim[0]]
        at = verbatim.end()
    last = _plain(text[at:]).rstrip()
    pieces.append(last)
    pieces[0] = pieces[0].lstrip()
    whole = "".join(pieces)
    return re.sub(_END_MARK, "", whole) if last else whole


def _plain(text: str) -> str:
    return re.sub(r"\s+", " ", normalize("NFC", normalize("NFC", text).lower()))
