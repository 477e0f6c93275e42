"""The two strings that LangChain hands to a cache, read back into the messages and params that they
were made from.

The prompt is JSON of message constructors, or the text itself for a plain LLM. The llm_string is
the model's constructor as JSON, ``---`` and the ``repr`` of the call's arguments, or that ``repr``
alone. Nothing is executed and no object is built.
"""

import ast
import re
import sys
from collections.abc import Mapping
from functools import lru_cache
from json import JSONDecoder
from typing import Any, Final, NamedTuple

from langchain_llm_cache_mem.shape import as_params, messages_as_dicts, sent
from llm_cache_mem import RequestNotCacheable
from llm_cache_mem._util.reprs import without_content
from llm_cache_mem.keys.identity import kind_of

__all__ = ["Model", "is_chat", "model_of", "read_prompt"]

_CHAT_PROMPT: Final = '[{"lc": 1, "type": "constructor"'
_ESCAPED: Final = "__lc_escaped__"
_DECODER: Final = JSONDecoder()

# Outside of string literals, what a repr holds that is no literal: classes and enum members are
# read, all else is opaque.
_TOKENS: Final = re.compile(
    r"""(?P<text>'(?:[^'\\]|\\.)*'|"(?:[^"\\]|\\.)*")"""
    r"""|<class '(?P<cls>[^'\\]+)'>"""
    r"""|(?P<enum><[A-Za-z_][\w.]*: (?:-?\d+|'(?:[^'\\]|\\.)*'|"(?:[^"\\]|\\.)*")>)""",
    re.DOTALL,
)


@without_content
class Model(NamedTuple):
    """What an llm_string says. *classes* are the names of the classes in it; *refusal* says why it
    can make no key."""

    settings: Mapping[str, Any]
    call: Mapping[str, Any]
    classes: tuple[str, ...] = ()
    refusal: str | None = None

    def resolve(self) -> tuple[type, ...]:
        """The classes as they are now. RequestNotCacheable where the model, or one of them, is an
        object that cannot be known."""
        if self.refusal is not None:
            raise RequestNotCacheable("model", self.refusal)
        return tuple(map(_find_class, self.classes))

    def arguments(self, classes: tuple[type, ...]) -> dict[str, Any]:
        """The arguments of the call, as new objects. RequestNotCacheable where one of them is a
        member of an enum, whose value is not known here."""
        if any(map(_holds_enum, self.call.values())):
            raise RequestNotCacheable("model", "one of its arguments is a member of an enum")
        read: dict[str, Any] = _read_marks(
            dict(self.call), dict(zip(self.classes, classes, strict=True))
        )
        return read

    def params(self, classes: tuple[type, ...]) -> dict[str, Any]:
        """The params of a request, as new objects."""
        call = {
            name: value for name, value in self.call.items() if name != "stop" or value is not None
        }
        read: dict[str, Any] = _read_marks(
            as_params(self.settings, call), dict(zip(self.classes, classes, strict=True))
        )
        return read


def is_chat(prompt: str) -> bool:
    """Whether *prompt* is that of a chat model."""
    return prompt.startswith(_CHAT_PROMPT)


def read_prompt(prompt: str, params: Mapping[str, Any]) -> list[Any]:
    """The messages in *prompt*. RequestNotCacheable if they hold an object that is not plain
    data."""
    if not is_chat(prompt):
        return [{"role": "user", "content": prompt}]
    try:
        nodes = _DECODER.decode(prompt)
        return messages_as_dicts(
            [_unescaped(sent(node["kwargs"]), "messages") for node in nodes], params
        )
    except RequestNotCacheable:
        raise
    # RecursionError, KeyError, ...: whatever it is, it is no list of messages
    except Exception:  # noqa: BLE001
        raise RequestNotCacheable(
            "messages", "they are not written as langchain-core writes messages"
        ) from None


@lru_cache(maxsize=64)
def model_of(llm_string: str) -> Model:
    """What *llm_string* says; a text of no known form stands for itself."""
    try:
        if llm_string.startswith("{"):
            return _constructor(llm_string)
        if llm_string.startswith("[("):
            return _pairs({}, llm_string)
    except RequestNotCacheable as exc:
        return Model({}, {}, refusal=exc.reason)
    except (ValueError, KeyError, TypeError, RecursionError):
        pass
    refusal = "its description holds the address of an object" if " at 0x" in llm_string else None
    return Model({}, {"llm_string": llm_string}, refusal=refusal)


def _constructor(llm_string: str) -> Model:
    tree, end = _DECODER.raw_decode(llm_string)
    if tree["type"] != "constructor" or not llm_string.startswith(
        "---[", end
    ):  # a header may hold --- too
        raise ValueError
    settings = {"_class": ".".join(tree["id"]), **_unescaped(tree["kwargs"], "model")}
    return _pairs(settings, llm_string[end + 3 :])


def _pairs(settings: dict[str, Any], text: str) -> Model:
    """The arguments in *text*, which is the repr of a sorted list of pairs."""
    classes: list[str] = []

    def as_literal(token: re.Match[str]) -> str:
        if token["cls"]:
            classes.append(token["cls"])
            return f"(..., {token['cls']!r})"  # nothing that a user passes has this repr
        return f"(..., 'enum', {token['enum']!r})" if token["enum"] else token[0]

    try:
        try:
            pairs = ast.literal_eval(text)
        except (ValueError, SyntaxError):
            pairs = ast.literal_eval(_TOKENS.sub(as_literal, text))
        call = dict(pairs)
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
        raise RequestNotCacheable(
            "model", "one of its arguments is an object, of which only the repr is known"
        ) from None
    return Model(settings, call, tuple(dict.fromkeys(classes)))


def _read_marks(tree: Any, classes: Mapping[str, type]) -> Any:
    """*tree* with the marks that _pairs made replaced by the class, or by the text of the enum
    member."""
    if type(tree) is dict:
        return {_read_marks(key, classes): _read_marks(item, classes) for key, item in tree.items()}
    if type(tree) in (list, tuple):
        if tree and tree[0] is ...:
            return classes[tree[1]] if len(tree) == 2 else tree[2]
        return [_read_marks(item, classes) for item in tree]
    return tree


def _holds_enum(tree: Any) -> bool:
    """Whether a mark of _pairs in *tree* stands for a member of an enum."""
    if type(tree) is dict:
        return any(map(_holds_enum, (*tree, *tree.values())))
    if type(tree) in (list, tuple):
        return (len(tree) == 3 and tree[0] is ...) or any(map(_holds_enum, tree))
    return False


def _unescaped(node: Any, path: str) -> Any:
    """*node* as plain data: no secrets, and the user's own dicts as they were. RequestNotCacheable
    for an object of any other kind."""
    if type(node) is list:
        return [_unescaped(item, path) for item in node]
    if type(node) is not dict:
        return node
    if len(node) == 1 and _ESCAPED in node:
        return node[_ESCAPED]
    if "lc" not in node:
        return {
            name: _unescaped(item, path)
            for name, item in node.items()
            if not _is_secret(item) or kind_of(name, "") != "credential"
        }
    if path == "model" and node.get("type") == "constructor":
        return {"_class": ".".join(node["id"]), **_unescaped(node["kwargs"], path)}
    what = "a secret" if _is_secret(node) else "an object"
    raise RequestNotCacheable(
        path, f"it holds {what} of {'.'.join(node.get('id', ['unknown type']))}"
    )


def _is_secret(node: Any) -> bool:
    return type(node) is dict and "lc" in node and node.get("type") == "secret"


def _find_class(name: str) -> type:
    """The pydantic class that calls itself *name*, in the module that defines it."""
    module, _, rest = name.rpartition(".")
    path = [rest]
    while module and module not in sys.modules:
        module, _, rest = module.rpartition(".")
        path.insert(0, rest)
    found: Any = sys.modules.get(module)
    for step in path:
        found = getattr(found, step, None)
    if (
        not isinstance(found, type)
        or f"{found.__module__}.{found.__qualname__}" != name
        or not hasattr(found, "model_json_schema")
    ):
        raise RequestNotCacheable(
            "model",
            f"the class {name} is not a model at the top of a module, where it could be found",
        )
    return found
