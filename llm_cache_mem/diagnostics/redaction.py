"""Redaction: secrets are removed from requests and recorded answers before they are written."""

import json
import re
from collections.abc import Callable, Iterable
from typing import Any, Final

from llm_cache_mem.keys.canonical import encode

__all__ = ["REDACTED", "Redaction", "Rule"]

REDACTED: Final = "[redacted]"
Rule = str | re.Pattern[str]
"""The name of a field of requests, in any case and with ``-`` or ``_``, or a pattern of text."""

_MAX_DEPTH = 200  # requests and stored values are not as deep

_SECRET_NAMES = re.compile(
    r"(?:^|.*_)(?:api_?keys?|key_?secret|private_?key|subscription_key|access_key(?:_id)?|authorization|auth|cookies?|pass(?:word|wd|phrase)"
    r"|secrets?|credentials?|(?:access|account|ad|auth|bearer|id|refresh|security|session|api)?_?token)"
)
_SECRETS = re.compile(
    r"(?<![A-Za-z0-9])(?:"
    r"(?:sk|rk|gsk|xai|pplx|r8|fw|tvly|nvapi|glpat|gh[pousr]|github_pat|lsv2_[a-z]{2}|xox[abeoprs])[-_](?=[A-Za-z_-]{0,80}[0-9])[A-Za-z0-9_-]{16,}"
    r"|hf_[A-Za-z0-9]{30,}|AIza[A-Za-z0-9_-]{30,}|ya29\.[A-Za-z0-9_-]{16,}"
    r"|(?:AKIA|ASIA)[A-Z0-9]{16}(?![A-Za-z0-9])"
    r"|eyJ[A-Za-z0-9_-]{8,}\.eyJ[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]{8,}"  # a JSON web token
    r"|(?P<scheme>[Bb]earer)[ ][A-Za-z0-9._~+/-]{16,}=*"
    r")"
    r"|(?P<before>[?&](?:api[-_]?key|key|token|access[-_]token|sig|signature)=)[^&\s\"'<>]{8,}"
    r"|(?P<url>[a-z][a-z0-9+.-]{1,20}://)[^\s/:@\"'<>]{0,100}:[^\s/@\"'<>]{1,200}(?=@)"
    r"|-----BEGIN [A-Z ]{0,30}PRIVATE KEY-----(?:(?!-----END)[\s\S])+(?:-----END [A-Z"
    r" ]{0,30}PRIVATE KEY-----)?"
)
_PREFIXES = ("scheme", "before", "url")  # what stays in front of the secret


def _without_secret(found: "re.Match[str]") -> str:
    prefix = next((found[name] for name in _PREFIXES if found[name]), "")
    return f"{prefix}{' ' if found['scheme'] else ''}{REDACTED}"


class Redaction:
    """Replaces secrets by REDACTED: API keys, tokens, passwords, cookies and authorization always,
    and what *rules* name.

    Names apply to the fields of requests at any depth, patterns to every text in requests and
    recorded answers. The key of a request is made before redaction.
    """

    def __init__(self, rules: Iterable[Rule] = ()) -> None:
        if isinstance(rules, str) or not isinstance(rules, Iterable):
            raise TypeError("redact must be a collection of names and patterns")
        self._names: set[str] = set()
        self._patterns: list[re.Pattern[str]] = []
        for rule in rules:
            if isinstance(rule, str) and rule:
                self._names.add(_plain(rule))
            elif isinstance(rule, re.Pattern) and isinstance(rule.pattern, str):
                self._patterns.append(rule)
            else:
                raise TypeError(
                    "redact takes names of fields and compiled patterns: redact=['user',"
                    " re.compile(r'\\d{16}')]"
                )

    def request(self, tree: Any) -> Any:
        """A copy of the plain JSON *tree* of a request, redacted."""
        return self._walk(tree, self._field, _MAX_DEPTH)

    def json(self, text: str) -> bytes:
        """The canonical JSON *text* of a request, redacted."""
        return encode(self.request(json.loads(text))).encode()

    def answer(self, tree: Any) -> Any:
        """A copy of the plain JSON *tree* of an answer with its texts redacted, whatever the names
        of its fields."""
        return self._walk(tree, None, _MAX_DEPTH)

    def text(self, text: str) -> str:
        """*text* with the matches of all patterns redacted."""
        text = _SECRETS.sub(_without_secret, text)
        for pattern in self._patterns:
            text = pattern.sub(REDACTED, text)
        return text

    def _walk(self, node: Any, field: "Callable[[str, Any], bool] | None", depth: int) -> Any:
        if type(node) is str:
            return self.text(node)
        if depth <= 0:
            return REDACTED if isinstance(node, (dict, list)) else node
        if type(node) is dict:
            return {
                key: (
                    REDACTED
                    if field is not None and field(key, item)
                    else self._walk(item, field, depth - 1)
                )
                for key, item in node.items()
            }
        return [self._walk(item, field, depth - 1) for item in node] if type(node) is list else node

    def _field(self, name: str, value: Any) -> bool:
        plain = _plain(name)
        if plain in self._names:
            return True
        return (
            not isinstance(value, (int, float, type(None)))
            and _SECRET_NAMES.fullmatch(plain) is not None
        )


def _plain(name: str) -> str:
    return name.lower().replace("-", "_")
