"""Redaction: secrets are removed from requests and recorded answers before they are written."""

import json
import re
from collections.abc import Callable, Iterable
from typing import Any

from llm_cache_mem._util import strict_json
from llm_cache_mem.diagnostics.secrets import REDACTED, is_secret_name, without_secrets, words_of
from llm_cache_mem.keys.canonical import encode

__all__ = ["REDACTED", "Redaction", "Rule"]

Rule = str | re.Pattern[str]
"""The name of a field of requests, in any case and with ``-`` or ``_``, or a pattern of text."""

_MAX_DEPTH = 200  # requests and stored values are not as deep
_MAX_QUOTED = 3  # JSON inside of the texts of JSON

_IsSecret = Callable[[str, Any], bool]


class Redaction:
    """Replaces secrets by REDACTED: API keys, tokens, passwords, cookies and authorization always,
    and what *rules* name.

    Secrets are found by the names of fields, also in JSON that is a text, such as the arguments of
    tool calls, and by their looks in every text, in requests and recorded answers. Names among
    *rules* apply to requests, patterns to both. The key of a request is made before redaction.
    """

    def __init__(self, rules: Iterable[Rule] = ()) -> None:
        if isinstance(rules, str) or not isinstance(rules, Iterable):
            raise TypeError("redact must be a collection of names and patterns")
        self._names: set[str] = set()
        self._patterns: list[re.Pattern[str]] = []
        for rule in rules:
            if isinstance(rule, str) and rule:
                self._names.add(words_of(rule))
            elif isinstance(rule, re.Pattern) and isinstance(rule.pattern, str):
                self._patterns.append(rule)
            else:
                raise TypeError(
                    "redact takes names of fields and compiled patterns: redact=['user',"
                    " re.compile(r'\\d{16}')]"
                )

    def request(self, tree: Any) -> Any:
        """A copy of the plain JSON *tree* of a request, redacted."""
        return self._walk(tree, self._in_request, _MAX_DEPTH)

    def json(self, text: str) -> bytes:
        """The canonical JSON *text* of a request, redacted."""
        return encode(self.request(json.loads(text))).encode()

    def answer(self, tree: Any) -> Any:
        """A copy of the plain JSON *tree* of an answer, redacted; names of *rules* do not apply."""
        return self._walk(tree, _in_answer, _MAX_DEPTH)

    def text(self, text: str) -> str:
        """*text* with the matches of all patterns redacted."""
        text = without_secrets(text)
        for pattern in self._patterns:
            text = pattern.sub(REDACTED, text)
        return text

    def _walk(self, node: Any, is_secret: _IsSecret, depth: int, quoted: int = _MAX_QUOTED) -> Any:
        if type(node) is str:
            return self._string(node, is_secret, quoted)
        if depth <= 0:
            return REDACTED if isinstance(node, (dict, list)) else node
        if type(node) is dict:
            return {
                key: (
                    REDACTED
                    if is_secret(key, item)
                    else self._walk(item, is_secret, depth - 1, quoted)
                )
                for key, item in node.items()
            }
        if type(node) is list:
            return [self._walk(item, is_secret, depth - 1, quoted) for item in node]
        return node

    def _string(self, text: str, is_secret: _IsSecret, quoted: int) -> str:
        """*text* redacted, also by the names of its fields if it is JSON, as the arguments of tool
        calls are."""
        if quoted and text.lstrip()[:1] in ("{", "["):
            try:
                tree = strict_json.parse(text.encode())
            except ValueError:  # no JSON, or not all of it
                return self.text(text)
            redacted = self._walk(tree, is_secret, _MAX_DEPTH, quoted - 1)
            if redacted != tree:
                text = json.dumps(redacted, ensure_ascii=False)
        return self.text(text)

    def _in_request(self, name: str, value: Any) -> bool:
        return (bool(self._names) and words_of(name) in self._names) or (
            _may_be_secret(value) and is_secret_name(name)
        )


def _in_answer(name: str, value: Any) -> bool:
    return _may_be_secret(value) and is_secret_name(name, in_answer=True)


def _may_be_secret(value: Any) -> bool:
    return not isinstance(value, (int, float, type(None)))
