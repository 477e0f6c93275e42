"""A request and the key of its entry: what is ignored, what a key function makes of it, whose it is
and which sample."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from llm_cache_mem.errors import NamespaceMissing, RequestNotCacheable
from llm_cache_mem.keys import digest as keys
from llm_cache_mem.keys.dependencies import Dependencies
from llm_cache_mem.keys.functions import ignoring, masking
from llm_cache_mem.options import (
    INHERITED,
    NOTHING_ASKED,
    CallOptions,
    InheritedNamespace,
    check_namespace,
    current,
)

__all__ = ["FUNCTION", "SCOPE", "Keyer", "Request", "View", "parameter_names"]

View = Callable[[Any, Mapping[str, Any]], tuple[Any, Mapping[str, Any]]]
"""Makes of the messages and params of a request, as a provider's API has them, those that the Chat
Completions API would have. Key functions, names in ``ignore=``, explanations and stored requests
are about these; the default key is made of the original."""

FUNCTION = "cached.function"
SCOPE = "cached.scope"
"""The params that tell decorated functions apart. No parameter of a Python function can be called
so, and no key function sees them: one that looks at nothing but the messages must not make
functions answer for each other."""


class Request(NamedTuple):
    """A request with the *key* of its entry: what the layers pass around. It is as private as its
    messages.

    *older*: keys under which its entry may still be, from before the encryption key was changed.
    *text*: its canonical JSON as it was when it was made, in caches that store requests.
    *view*: see View; without one, the request is its own. *tags*: those of the call, such as
    ``team=search``. *depends_on*: what its answer depends on, for this one call.
    """

    key: str
    model: str | None
    messages: Any
    params: Mapping[str, Any]
    older: tuple[str, ...] = ()
    text: str | None = None
    view: View | None = None
    tags: tuple[str, ...] = ()
    depends_on: Dependencies | None = None

    def __repr__(self) -> str:
        return f"Request(key={self.key!r}, model={self.model!r})"


def _seen(view: View, messages: Any, params: Mapping[str, Any]) -> tuple[Any, Mapping[str, Any]]:
    """What *view* makes of a request; RequestNotCacheable if it fails."""
    try:
        return view(messages, params)
    except Exception as exc:
        raise RequestNotCacheable("request", f"its view raised {type(exc).__name__}") from exc


def parameter_names(names: Iterable[str], what: str = "ignore") -> frozenset[str]:
    """*names* as a set; TypeError for a bare str, which would be taken letter by letter."""
    found = frozenset(names) if isinstance(names, Iterable) and not isinstance(names, str) else None
    if found is None or not all(isinstance(name, str) for name in found):
        raise TypeError(f"{what} must be a collection of names")
    return found


class Keyer:
    """Makes keys: ``schema:namespace:kind:digest[.sample]``; options of the call go before what is
    set here."""

    def __init__(
        self,
        namespace: str,
        key_fn: Callable[..., Any] | None,
        ignore: Iterable[str],
        *,
        texts: bool = False,
        require_namespace: bool = False,
    ) -> None:
        if key_fn is not None and not callable(key_fn):
            raise TypeError(
                f"key_fn must be a function of (messages, **params), not {type(key_fn).__name__}"
            )
        for factory in (ignoring, masking):
            if key_fn is factory:
                name = factory.__name__
                raise TypeError(f"call {name} first: key_fn={name}(...)")
        self._namespace = check_namespace(namespace)
        self._key_fn = key_fn
        self._ignore = parameter_names(ignore)
        self._reads_view = key_fn is not None or not self._ignore <= keys.DEFAULT_IGNORE
        self.texts = texts
        self._require_namespace = require_namespace
        self.sample = 0
        """Which sample is meant where the options of a call ask for none."""
        self.depends_on: tuple[str, ...] = ()
        """What all answers depend on, beside what the options of a call name."""
        self.travelled = False
        """Whether the cache was pickled for this process: its namespace is that of its task."""
        self._stored: Callable[[str], str] | None = None
        self._stored_before: Sequence[Callable[[str], str]] = ()

    def hide(self, digests: Sequence[Callable[[str], str]]) -> None:
        """Make the digests in keys by the first of *digests* (Envelope.digests), those in older
        keys by the others."""
        if digests:
            self._stored, *self._stored_before = digests

    def verbatim(self) -> "Keyer":
        """The same for requests that are no conversations: nothing is ignored, and no key function
        stands between."""
        required = self._require_namespace
        other = Keyer(self._namespace, None, (), texts=self.texts, require_namespace=required)
        other._stored, other._stored_before = self._stored, self._stored_before
        other.travelled = self.travelled
        other.sample = self.sample
        other.depends_on = self.depends_on
        return other

    def prefix(self, kind: str | None = None) -> str:
        """What the keys of this namespace begin with, or of one *kind* of entry in it."""
        return keys.prefix(self._namespace_for(current()), kind)

    def is_own(self, key: str) -> bool:
        """Whether *key* is of the namespace that was set here, and not one that a call has asked
        for."""
        return key.startswith(keys.prefix(self._namespace))

    def _namespace_for(self, options: CallOptions) -> str:
        asked: Any = options.namespace
        ours = asked is INHERITED or (self.travelled and isinstance(asked, InheritedNamespace))
        return self._namespace if ours else asked

    def stored_digests(self, digest: str) -> list[str]:
        """What *digest* is in stored keys, and was before the encryption key was changed."""
        now = digest if self._stored is None else self._stored(digest)
        return [now, *(before(digest) for before in self._stored_before)]

    def digest(
        self,
        messages: Any,
        params: Mapping[str, Any],
        view: View | None = None,
        *,
        exact: bool = False,
    ) -> str:
        """The published hex SHA-256 of the request, after *ignore* and *key_fn*.
        RequestNotCacheable if it has no single wire form."""
        if view is not None and self._reads_view:
            messages, params = _seen(view, messages, params)
        if not self._ignore.isdisjoint(params):
            params = self._counted(params)
        if self._key_fn is None:
            return keys.digest(messages, params, exact=exact)
        return keys.digest_of(self._by_key_fn(self._key_fn, messages, params), exact=exact)

    def text(
        self,
        messages: Any,
        params: Mapping[str, Any],
        view: View | None = None,
        *,
        exact: bool = False,
    ) -> str:
        """The canonical JSON of the view of the request, after *ignore*. RequestNotCacheable as
        above."""
        if view is not None:
            messages, params = _seen(view, messages, params)
        return keys.canonical_json(messages, self._counted(params), exact=exact)

    def hashed(self, request: dict[str, Any]) -> Any:
        """What *key_fn* makes of a *request* that was stored."""
        params = dict(request)
        return (
            request
            if self._key_fn is None
            else self._by_key_fn(self._key_fn, params.pop("messages"), params)
        )

    @staticmethod
    def _by_key_fn(key_fn: Callable[..., Any], messages: Any, params: Mapping[str, Any]) -> Any:
        own = {name: params[name] for name in (FUNCTION, SCOPE) if name in params}
        try:
            made = key_fn(
                messages,
                **{name: value for name, value in params.items() if name not in own}
                if own
                else params,
            )
            return {**own, "request": made} if own else made
        except RequestNotCacheable:
            raise
        except Exception as exc:
            raise RequestNotCacheable("key_fn", f"it raised {type(exc).__name__}") from exc

    def ignored(self, params: Mapping[str, Any]) -> dict[str, Any]:
        """The params that are not part of the request."""
        return {name: params[name] for name in self._ignore if name in params}

    def unkeyed(self, request: Request) -> object:
        """What tells *request*, if a key function made its key, from others with the same key."""
        if self._key_fn is None:
            return None
        try:
            return keys.digest(request.messages, self._counted(request.params), exact=True)
        except RequestNotCacheable:  # only what the key function left has a form
            return object()

    def _counted(self, params: Mapping[str, Any]) -> Mapping[str, Any]:
        """The params that are part of the request."""
        return {name: value for name, value in params.items() if name not in self._ignore}

    def request(
        self,
        messages: Any,
        params: Mapping[str, Any],
        kind: str = "value",
        view: View | None = None,
        *,
        exact: bool = False,
        draws: bool = False,
    ) -> Request:
        """The request, with the key of its entry among those of *kind*. *exact*: whether its
        arguments are those of a program's own function, which count as all that they are. *draws*:
        whether it is a call, which takes one of the samples that the options may be about.

        RequestNotCacheable where it has no wire form, no namespace in a cache that requires one, or
        no sample left.
        """
        asked = current()
        namespace = self._namespace if asked is NOTHING_ASKED else self._namespace_for(asked)
        if self._require_namespace and (not namespace or isinstance(namespace, InheritedNamespace)):
            raise NamespaceMissing
        model = params.get("model")
        named = model if isinstance(model, str) else None
        digest = self.digest(messages, params, view, exact=exact)
        place = keys.prefix(namespace, kind)
        key = place + (digest if self._stored is None else self._stored(digest))
        number = asked.sample or self.sample
        if asked is NOTHING_ASKED and not (
            number or view or self.texts or self._stored_before or self.depends_on
        ):
            return Request(key, named, messages, params)
        if asked.draw is not None:
            number *= asked.draw.samples
            number += asked.draw.take(place + digest) if draws else 0
        sample = f".{number}" if number else ""
        older = tuple([place + before(digest) + sample for before in self._stored_before])
        # now: the caller may change them later
        text = self.text(messages, params, view, exact=exact) if self.texts else None
        names = (*asked.depends_on, *self.depends_on)
        needs = Dependencies(names) if names else None
        return Request(key + sample, named, messages, params, older, text, view, asked.tags, needs)
