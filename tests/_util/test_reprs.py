"""Objects that hold prompts or answers show none of them."""

from typing import Any

import pytest

from llm_cache_mem.diagnostics.explain import StoredRequest
from llm_cache_mem.engine import batches, calls, reader, stream_calls, verification, writer
from llm_cache_mem.evaluation import providers, run
from llm_cache_mem.http import embeddings
from llm_cache_mem.migration.messages import Chat
from llm_cache_mem.stores.sqlite import packing

HOLDERS: tuple[Any, ...] = (
    *(batches.Found, batches.Made, batches.Part, calls.Answer, calls.Made, Chat, embeddings.Row),
    *(packing.Row, providers.Job, providers.Row, run.Outcome, StoredRequest),
    *(stream_calls.Head, stream_calls.NoStream, verification.Fresh, writer.Answered),
)


@pytest.mark.parametrize("holder", HOLDERS)
def test_content_is_in_no_repr(holder: Any) -> None:
    held = holder._make(["CANARY"] * len(holder._fields))
    assert repr(held) == f"{holder.__name__}(...)"


def test_a_hit_shows_its_age_only() -> None:
    entry: Any = "CANARY"
    assert repr(reader.Hit("CANARY", 1.0, entry)) == "Hit(age=1.0)"
