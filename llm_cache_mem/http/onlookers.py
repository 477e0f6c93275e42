"""Find out whether an instrumentor is around a request that adds up the usage which it sees."""

import re
import sys
from collections.abc import Iterator
from functools import lru_cache
from typing import Any, Final

__all__ = ["sums_usage", "tell_run"]

_INSTRUMENTORS: Final = "opentelemetry.instrumentation.instrumentor"
_OF_MODELS: Final = re.compile(
    r"^openinference\.|^openlit\.|^langtrace|\b(openai|anthropic|langchain|llama_?index|cohere|groq"
    r"|mistralai|ollama|bedrock|google_gen(ai|erativeai)|vertexai|together|litellm|writer)\b"
)
_ATTRIBUTES: Final = ("gen_ai.", "llm.", "openinference.", "traceloop.", "request_data")
_PATCHES: Final = "langfuse.openai"  # importing it is enough to patch the SDK
_LANGSMITH: Final = "langsmith.run_helpers"


def sums_usage() -> bool:
    """Whether what calls here is watched by an instrumentor of OpenInference, OpenLLMetry or
    Logfire, by Langfuse or by LangSmith. It imports none of them."""
    if _PATCHES in sys.modules:
        return True
    return (
        any(map(_is_active, _instrumentors()))
        or _in_span_of_model()
        or _under_logfire()
        or _in_run_of_model()
    )


def _instrumentors() -> Iterator[Any]:
    """The instrumentors of model SDKs and frameworks that were made in this process."""
    module = sys.modules.get(_INSTRUMENTORS)
    base = getattr(module, "BaseInstrumentor", None)
    for kind in () if base is None else base.__subclasses__():
        found = getattr(kind, "_instance", None)
        if found is not None and _is_of_models(kind.__module__):
            yield found


@lru_cache(maxsize=512)
def _is_of_models(module: str) -> bool:
    return _OF_MODELS.search(module) is not None


def _is_active(instrumentor: Any) -> bool:
    return getattr(instrumentor, "is_instrumented_by_opentelemetry", False) is True


def _in_span_of_model() -> bool:
    """Whether the current span describes a call of a model, of any instrumentor."""
    trace = sys.modules.get("opentelemetry.trace")
    span = None if trace is None else trace.get_current_span()
    if span is None or not span.is_recording():
        return False
    attributes = getattr(span, "attributes", None) or {}
    return any(str(name).startswith(_ATTRIBUTES) for name in attributes)


def _under_logfire() -> bool:
    """Whether Logfire has told the instrumentors below it to stand aside, as it does around the
    calls that it records; its own span may then be hidden by one that is not recorded."""
    context = sys.modules.get("opentelemetry.context")
    if context is None or "logfire" not in sys.modules:
        return False
    return bool(context.get_value("suppress_instrumentation"))


def tell_run(outcome: str) -> None:
    """If LangSmith traces this call as one of a model, add the *outcome*, ``hit`` or ``coalesced``,
    to the metadata of its run, by which it can filter."""
    run = _run_of_model()
    if run is not None:
        run.add_metadata({"llm_cache_mem": outcome})


def _in_run_of_model() -> bool:
    """Whether LangSmith traces this call as one of a model."""
    return _run_of_model() is not None


def _run_of_model() -> Any:
    module = sys.modules.get(_LANGSMITH)
    current = getattr(module, "get_current_run_tree", None)
    run = None if current is None else current()
    return run if getattr(run, "run_type", None) == "llm" else None
