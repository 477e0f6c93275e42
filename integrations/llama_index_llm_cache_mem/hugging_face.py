"""What of a HuggingFaceLLM follows from the names and revisions of its model and its tokenizer."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

__all__ = ["HINT", "derived_attributes", "is_hugging_face"]

HINT: Final = (
    "give both model_kwargs and tokenizer_kwargs a revision, for a model and a tokenizer from the"
    " hub"
)
_CLASS: Final = "llama_index.llms.huggingface.base:HuggingFaceLLM"
_LOADED: Final = {
    "_model": ("model_name", "model_kwargs"),
    "_tokenizer": ("tokenizer_name", "tokenizer_kwargs"),
}
"""What its constructor loads, and the fields that say what from."""


def is_hugging_face(cls: type) -> bool:
    """Whether *cls* is HuggingFaceLLM or derived from it."""
    return any(f"{base.__module__}:{base.__qualname__}" == _CLASS for base in cls.__mro__)


def derived_attributes(llm: Any) -> frozenset[str]:
    """The attributes of *llm* that its fields tell all about: of a HuggingFaceLLM the model and the
    tokenizer that its constructor loaded from the hub by name and revision.

    The object that ``model=`` or ``tokenizer=`` was given may hold any weights, and a local folder
    any files, so those are not.
    """
    if not is_hugging_face(type(llm)):
        return frozenset()
    found = {name for name in _LOADED if _is_from_hub(llm, name)}
    criteria = getattr(llm, "_stopping_criteria", None)
    own = "HuggingFaceLLM.__init__."  # made of the field stopping_ids
    if isinstance(criteria, list) and all(_name_of(item).startswith(own) for item in criteria):
        found.add("_stopping_criteria")
    return frozenset(found)


def _is_from_hub(llm: Any, attribute: str) -> bool:
    name_field, kwargs_field = _LOADED[attribute]
    name, kwargs = getattr(llm, name_field, None), getattr(llm, kwargs_field, None)
    revision = kwargs.get("revision") if isinstance(kwargs, Mapping) else None
    if not (isinstance(name, str) and isinstance(revision, str) and revision):
        return False
    loaded = getattr(llm, attribute, None)
    return getattr(loaded, "name_or_path", None) == name and not Path(name).is_dir()


def _name_of(item: Any) -> str:
    return type(item).__qualname__
