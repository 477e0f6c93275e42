"""What an HTTP request asks of a model, as messages and params; whatever is no such request is none
of the cache's business."""

import re
from collections.abc import Iterable
from functools import lru_cache
from typing import Any, Final, NamedTuple
from urllib.parse import unquote

from llm_cache_mem._util import strict_json
from llm_cache_mem.errors import RequestNotCacheable
from llm_cache_mem.http.headers import answer_changing, answer_changing_query
from llm_cache_mem.keys.names import as_sent
from llm_cache_mem.keys.state import provider_state

__all__ = [
    "MAX_REQUEST_BYTES",
    "Asked",
    "asked",
    "fields_of",
    "is_endpoint",
    "is_generation",
    "is_local_endpoint",
    "read",
]

MAX_REQUEST_BYTES: Final = 64 * 1024 * 1024

_ENDPOINTS: Final = (
    r"(chat|fim|agents)/completions|completions|responses(/input_tokens)?|embeddings|moderations|chat/moderations|classifications|rerank"
    r"|messages(/count_tokens)?"
    r"|v[12]/(chat|generate|embed|rerank|classify|summarize)|api/(chat|generate|embed|embeddings)"
    r"|[^/]+(?::|%3A)(generateContent|streamGenerateContent|countTokens|embedContent|batchEmbedContents|rawPredict|streamRawPredict)"
    r"|model/[^/]+/(invoke|invoke-with-response-stream|converse|converse-stream|count-tokens)"
)
_PATH: Final = re.compile(rf"(?:^|/)(?:{_ENDPOINTS})/?$")
# Words that name an endpoint only behind the version of an API, on a server that may be anything.
_PLAIN: Final = (
    r"completions|responses(/input_tokens)?|embeddings|moderations|classifications|rerank"
    r"|messages(/count_tokens)?"
)
_PLAIN_PATH: Final = re.compile(rf"(?:^|/)(?:{_PLAIN})/?$")
_IN_API: Final = re.compile(rf"/(?:v\d\w*|openai|(?:deployments|engines)/[^/]+)/(?:{_PLAIN})/?$")
_STREAMS: Final = re.compile(r"/api/(chat|generate)/?$")  # Ollama's, unless "stream" is false
# boto3 names no content type for these, which mean JSON then.
_INVOKE: Final = re.compile(r"/model/[^/]+/invoke(-with-response-stream)?$")
_SOMEBODYS_THREAD: Final = re.compile(
    r"/(threads|conversations)/"
)  # to post a message there is not to ask for an answer
_MODEL_IN_PATH: Final = re.compile(
    r"/model/([^/]+)/|/(?:models|tunedModels|deployments|engines)/(?!chat/)([^/:]+)"
)

# Where each API has what is said, in the order in which they are looked for. The rest of the body
# are params.
_MESSAGES: Final = (
    "messages",
    "input",
    "contents",
    "prompt",
    "message",
    "inputText",
    "texts",
    "content",
    "requests",
    "query",
)
_OURS: Final = "http."  # in front of the params that are not of the body


class Asked(NamedTuple):
    """A generation request as messages and params. It is as private as its messages.

    *state* is the field that leans on something the provider holds, None if there is none.
    """

    messages: Any
    params: dict[str, Any]
    state: str | None = None

    def __repr__(self) -> str:
        return f"Asked(params={sorted(self.params)!r})"


@lru_cache(maxsize=1024)
def is_generation(method: str, path: str, content_type: str) -> bool:
    """Whether this is a request for what a model makes of JSON: a completion, an embedding, a
    count. Anything else is let alone."""
    if method != "POST" or not is_endpoint(path):
        return False
    return "json" in content_type.lower() or (not content_type and _INVOKE.search(path) is not None)


def is_endpoint(path: str) -> bool:
    """Whether *path* is that of an endpoint from which a request may be cached."""
    return _PATH.search(path) is not None and not _SOMEBODYS_THREAD.search(path)


def is_local_endpoint(path: str) -> bool:
    """``is_endpoint`` for a server on this machine, which may be any: only full paths, such as
    ``/v1/embeddings``, and not ``/rooms/5/messages``."""
    if not is_endpoint(path):
        return False
    is_chat = path.rstrip("/").endswith("chat/completions")
    return is_chat or _PLAIN_PATH.search(path) is None or _IN_API.search(path) is not None


def read(
    base_url: str, path: str, query: str, headers: Iterable[tuple[str, str]], body: bytes
) -> Asked:
    """The request; RequestNotCacheable, with the place, if its body is no JSON object or has no
    single meaning.

    *path* and *query* are as on the wire. Params hold the fields of the body, ``model`` from the
      path where the body names none,
    and, with "http." in front of their names, the base URL, path, query and headers that can change
    the answer.
    """
    return asked(base_url, path, query, headers, fields_of(body))


def asked(
    base_url: str,
    path: str,
    query: str,
    headers: Iterable[tuple[str, str]],
    fields: dict[str, Any],
) -> Asked:
    """``read`` for a body that is an object with these *fields*, which it takes."""
    state = provider_state(fields)
    params = dict(as_sent(fields, streams=_STREAMS.search(path) is not None))
    messages, source = _messages(params)
    if not isinstance(params.get("model"), str) and (named := _MODEL_IN_PATH.search(path)):
        params.setdefault("model", unquote(named[1] or named[2]))
        source += " model"
    params["http.base_url"], params["http.path"] = base_url, path
    pairs = answer_changing_query(query)
    if pairs:
        params["http.query"] = pairs
    counting = answer_changing(headers)
    if counting:
        params["http.headers"] = counting
    if (
        source != "messages"
    ):  # else two bodies that differ in nothing but the field's name would be one request
        params["http.source"] = source
    return Asked(messages, params, state)


def fields_of(body: bytes) -> dict[str, Any]:
    """The fields of the JSON object that *body* is; RequestNotCacheable if it is none."""
    if len(body) > MAX_REQUEST_BYTES:
        raise RequestNotCacheable("body", f"more than {MAX_REQUEST_BYTES} bytes")
    try:
        fields = strict_json.parse(body)
    except (
        strict_json.NotJson
    ) as exc:  # of a name that stands there twice, which counts is for the server to say
        raise RequestNotCacheable("body", str(exc)) from None
    if not isinstance(fields, dict):
        raise RequestNotCacheable("body", "not a JSON object")
    if any(name.startswith(_OURS) for name in fields):
        raise RequestNotCacheable("body", f"fields whose names begin with {_OURS} are taken")
    return fields


def _messages(fields: dict[str, Any]) -> tuple[Any, str]:
    """Takes out of *fields* what is said, in role/content form where that can be told back; and a
    name for where it was."""
    for name in _MESSAGES:
        if fields.get(name) is not None:
            said = fields.pop(name)
            if isinstance(said, str):
                return [{"role": "user", "content": said}], f"{name} text"
            if name != "contents" or not isinstance(said, list):
                return said, name
            if any(
                isinstance(turn, dict) and "content" in turn for turn in said
            ):  # of no known API; not to be taken for the other
                return said, f"{name} as they are"
            return [_turn(turn) for turn in said], name
    return None, ""


def _turn(turn: Any) -> Any:
    """Gemini's {role, parts} as {role, content}."""
    if isinstance(turn, dict) and "parts" in turn:
        return {("content" if name == "parts" else name): value for name, value in turn.items()}
    return turn
