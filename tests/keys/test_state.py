"""What a request leans on that its provider holds."""

from typing import Any

import pytest

from llm_cache_mem.errors import StatefulRequest
from llm_cache_mem.keys.state import STATEFUL_FIELDS, provider_state, refuse_stateful
from llm_cache_mem.options import options

STATEFUL: list[tuple[dict[str, Any], str]] = [
    *(({name: "x"}, name) for name in STATEFUL_FIELDS),
    ({"background": True}, "background"),
    ({"prompt": {"id": "p"}}, "prompt.id"),
    ({"container": "cntr_1"}, "container"),
    ({"container": {"id": "c"}}, "container"),
    ({"input": ["x", {"type": "item_reference", "id": "m"}]}, "input[1]"),
    ({"tools": [1, {"vector_store_ids": ["v"]}]}, "tools[1].vector_store_ids"),
    ({"built_in_tools": [{"vector_store_ids": ["v"]}]}, "built_in_tools[0].vector_store_ids"),
    ({"tools": [{"container": "c"}]}, "tools[0].container"),
]


@pytest.mark.parametrize(("body", "path"), STATEFUL)
def test_state_of_the_provider_is_found(body: dict[str, Any], path: str) -> None:
    assert provider_state({"model": "m", **body}) == path
    with pytest.raises(StatefulRequest):
        refuse_stateful(path)
    with options(stateful=True):
        refuse_stateful(path)


@pytest.mark.parametrize(
    "body",
    [
        *({name: ""} for name in STATEFUL_FIELDS),
        {"background": False},
        {"background": "True"},
        {"prompt": {"id": "p", "version": "1"}},
        {"prompt": {"version": "1"}},
        {"prompt": "id"},
        {"container": {"type": "auto"}},
        {"input": "item_reference"},
        {"input": [{"type": "message"}]},
        {"tools": [{"vector_store_ids": []}, {"container": {"type": "auto"}}]},
        {"tools": {"vector_store_ids": ["v"]}},
    ],
)
def test_anything_else_can_be_repeated(body: dict[str, Any]) -> None:
    assert provider_state({"model": "m", **body}) is None
    refuse_stateful(None)
