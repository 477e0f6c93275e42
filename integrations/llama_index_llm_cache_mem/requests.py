"""From a call of an LLM to a request with a key."""

import logging
from collections.abc import Callable, Mapping
from hashlib import sha256
from typing import Any

from llama_index.core.tools import BaseTool
from llama_index_instrumentation.dispatcher import active_instrument_tags

from llama_index_llm_cache_mem.hugging_face import HINT, is_hugging_face
from llama_index_llm_cache_mem.identity import identity, tool_to_dict
from llama_index_llm_cache_mem.leaves import Args, Kwargs, Leaf, Target
from llama_index_llm_cache_mem.messages import messages_to_dicts
from llm_cache_mem import Request, RequestNotCacheable
from llm_cache_mem.keys.chat_form import function_tool, overlaid
from llm_cache_mem.keys.growing import note_settings
from llm_cache_mem.keys.identity import Identity, describe
from llm_cache_mem.keys.names import as_sent
from llm_cache_mem.keys.state import provider_state, refuse_stateful
from llm_cache_mem.options import MOST_TAGS, check_tags, options

__all__ = ["other_request", "request_of", "request_of_leaf"]

_log = logging.getLogger(__name__)
_logged: set[tuple[str, ...]] = set()


def request_of_leaf(target: Target, leaf: Leaf, args: Args, kwargs: Kwargs) -> Request | None:
    """The request of a call of *leaf* with these arguments. See ``request_of``."""
    return request_of(target, leaf.kind, lambda: _split(leaf, args, kwargs))


def other_request(target: Target, leaf: Leaf, request: Request) -> Request:
    """The request under whose key the answer to *request* is stored as *leaf* does not give it: as
    a whole, or as a stream."""
    prefix = target.cache.engine.keyer.prefix
    rest = request.key[len(prefix(_named(target, leaf.kind))) :]
    return request._replace(key=prefix(_named(target, leaf.other_kind)) + rest, older=())


def request_of(
    target: Target, kind: str, split: Callable[[], tuple[Any, dict[str, Any]]]
) -> Request | None:
    """The request of the messages and arguments that *split* returns; None to call the model as if
    there were no cache.

    In mode ``replay``, where no model may be called, RequestNotCacheable is raised instead.
    """
    engine = target.cache.engine
    if engine.is_off:
        return None
    try:
        messages, arguments = split()
        found = identity(target.inner)
        if found.opaque and not target.identity:
            _skip(target, found)
            return None
        note_settings(type(target.inner), found.settings)
        params = _params(found.settings, arguments)
        refuse_stateful(provider_state(params))
        with options(tags=_tags()):
            return engine.request(messages, params, kind=_named(target, kind))
    except RequestNotCacheable as exc:
        if engine.is_replay:
            raise
        engine.skip(exc.skipped_as, "a call goes uncached: %s", exc)
    except Exception as exc:  # properties and fields of an LLM may raise anything
        if engine.is_replay:
            raise RequestNotCacheable(
                "request", f"it could not be read ({type(exc).__name__})"
            ) from exc
        engine.skip(
            "request", "a call goes uncached: it could not be read (%s)", type(exc).__name__
        )
    return None


def _tags() -> dict[str, str]:
    """LlamaIndex's own tags of this context (``instrument_tags``), by which the call is counted."""
    found: dict[str, str] = {}
    for name, value in active_instrument_tags.get().items():
        try:
            check_tags({name: value})
        except (TypeError, ValueError):  # for LlamaIndex anything may be a tag
            continue
        found[name] = value
    return dict(list(found.items())[:MOST_TAGS])


def _named(target: Target, kind: str) -> str:
    """*kind* with the identity that the user gave: a part of the key that no key function can
    remove."""
    if not target.identity:
        return kind
    return f"{kind}.{sha256(target.identity.encode()).hexdigest()[:16]}"


def _skip(target: Target, found: Identity) -> None:
    """Count a call of an LLM that holds an object without a wire form; log the first of each."""
    cls = type(target.inner)
    path, type_name = next(iter(found.opaque.items()))
    reason = f"{cls.__name__}.{path} is a {type_name}, which has no wire form"
    if target.cache.engine.is_replay:
        raise RequestNotCacheable(path, reason)
    target.cache.engine.ledger.skip("opaque")
    named = (cls.__module__, cls.__qualname__, *found.opaque)
    if named not in _logged:
        _logged.add(named)
        hint = f", or {HINT}" if is_hugging_face(cls) else ""
        _log.warning(
            "calls go uncached: %s, so no key can tell two such models apart; identify yours with"
            " CachedLLM(llm, cache, identity=...)%s",
            reason,
            hint,
        )


def _split(leaf: Leaf, args: Args, kwargs: Kwargs) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """The messages and the other arguments of a call."""
    params = dict(kwargs)
    rest = list(args)
    subject = rest.pop(0) if rest else params.pop(leaf.argument, None)
    if leaf.argument == "messages":
        messages = messages_to_dicts(subject)
    else:
        if not isinstance(subject, str):
            raise RequestNotCacheable("prompt", "not a string")
        messages = [{"role": "user", "content": subject}]
        if rest:
            params["formatted"] = rest.pop(0)
        if not params.get("formatted"):
            params.pop("formatted", None)
    if rest:
        raise RequestNotCacheable("arguments", "more of them than the method takes")
    return messages, params


def _params(settings: Mapping[str, Any], arguments: Mapping[str, Any]) -> dict[str, Any]:
    """The parameters of a call: the LLM's, and over them those given with the call, each where the
    Chat Completions API has it."""
    given = {name: _argument(value) for name, value in arguments.items()}
    if "extra_headers" in given:
        headers = describe([("extra_headers", given.pop("extra_headers"))]).require_known()
        given.update(headers)
    body = given.pop("extra_body", None)
    params = overlaid(settings, given)
    if isinstance(body, Mapping):
        params = overlaid(params, body)
    elif body is not None:
        params = {**params, "extra_body": body}
    return dict(as_sent(params))


def _argument(value: Any) -> Any:
    if isinstance(value, BaseTool):
        return tool_to_dict(value)
    if isinstance(value, (list, tuple)):
        return [_argument(item) for item in value]
    if isinstance(value, dict) and "input_schema" in value and "type" not in value:
        return function_tool(value, "input_schema") or value  # as Anthropic's API has it
    return value
