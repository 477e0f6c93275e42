"""The batch APIs of OpenAI and Anthropic, each through its own SDK's client."""

import json
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from typing import Any, Final, NamedTuple, Protocol

from llm_cache_mem._util.reprs import without_content

__all__ = ["MARK", "Found", "Job", "Provider", "Row", "provider_of"]

MARK: Final = "llm_cache_mem"
"""The name in the metadata of a batch under which its mark stands."""

_CLOCK_SKEW: Final = 3600.0


@without_content
class Job(NamedTuple):
    """A request as it is sent: *custom_id* tells its result from the others."""

    custom_id: str
    body: dict[str, Any]


@without_content
class Row(NamedTuple):
    """A result: the *answer*, an object of the SDK, or the *reason* why there is none."""

    custom_id: str
    answer: Any = None
    reason: str = ""


class Found(NamedTuple):
    """What a search for a batch came to; neither found nor *settled*: it may show later."""

    batch: str | None
    settled: bool = True


class Provider(Protocol):
    """A batch API. What the SDK raises is raised."""

    name: str
    live: Callable[..., Any]
    """The method that makes the same call at once, under whose key its answer is stored."""
    most_bytes: int

    def read(self, body: dict[str, Any]) -> Any:
        """The answer with this *body*, as an object of the SDK."""
        ...

    def groups(self, jobs: Iterable[Job]) -> Iterable[Sequence[Job]]:
        """*jobs* in as many parts as the limits of a batch demand, sizes apart."""
        ...

    def submit(self, jobs: Sequence[Job], mark: str) -> str:
        """Submit a batch, once; its id."""
        ...

    def find(self, mark: str, since: float, ids: Collection[str], others: Collection[str]) -> Found:
        """The batch that was submitted with *mark* and custom *ids* after *since*, in Unix seconds.
        *others* are ids of batches that are known to be others."""
        ...

    def is_over(self, batch: str) -> bool:
        """Whether the results are there."""
        ...

    def results(self, batch: str) -> Iterator[Row]:
        """The results, in any order."""
        ...

    def ended(self, batch: str) -> str:
        """Why a request without a result has none."""
        ...


def provider_of(client: Any) -> Provider:
    """The provider that *client* is for; TypeError if it is no such client, or an async one."""
    if type(client).__name__.startswith("Async"):
        raise TypeError(
            f"batch takes the plain client, not {type(client).__name__}: it waits for hours; run it"
            " with asyncio.to_thread"
        )
    if hasattr(client, "batches") and hasattr(client, "files"):
        return _OpenAI(client)
    if hasattr(getattr(client, "messages", None), "batches"):
        return _Anthropic(client)
    raise TypeError(f"batch takes a client of openai or anthropic, not {type(client).__name__}")


class _OpenAI:
    name = "openai"
    most_bytes = 200_000_000
    _most = 50_000
    _endpoint = "/v1/chat/completions"

    def __init__(self, client: Any) -> None:
        self._client = client
        self.live = client.chat.completions.create

    def read(self, body: dict[str, Any]) -> Any:
        from openai.types.chat import ChatCompletion

        return ChatCompletion.construct(**body)

    def groups(self, jobs: Iterable[Job]) -> Iterable[Sequence[Job]]:
        by_model: dict[Any, list[Job]] = {}  # a batch is for one model
        for job in jobs:
            by_model.setdefault(str(job.body.get("model")), []).append(job)
        for same in by_model.values():
            yield from _parts(same, self._most)

    def submit(self, jobs: Sequence[Job], mark: str) -> str:
        lines = (
            {"custom_id": job.custom_id, "method": "POST", "url": self._endpoint, "body": job.body}
            for job in jobs
        )
        data = b"".join(json.dumps(line).encode() + b"\n" for line in lines)
        file = self._client.files.create(file=("requests.jsonl", data), purpose="batch")
        once = self._client.with_options(max_retries=0)  # a retry may buy it twice
        batch = once.batches.create(
            input_file_id=file.id,
            endpoint=self._endpoint,
            completion_window="24h",
            metadata={MARK: mark},
        )
        return str(batch.id)

    def find(self, mark: str, since: float, ids: Collection[str], others: Collection[str]) -> Found:
        for batch in self._client.batches.list(limit=100):  # the newest first
            if batch.created_at < since - _CLOCK_SKEW:
                break
            if (batch.metadata or {}).get(MARK) == mark:
                return Found(str(batch.id))
        return Found(None)

    def is_over(self, batch: str) -> bool:
        status = self._client.batches.retrieve(batch).status
        return status in ("completed", "failed", "expired", "cancelled")

    def results(self, batch: str) -> Iterator[Row]:
        found = self._client.batches.retrieve(batch)
        for file in filter(None, (found.output_file_id, found.error_file_id)):
            for line in self._client.files.content(file).content.split(b"\n"):
                if not line.strip():
                    continue
                row = json.loads(line)
                response = row.get("response") or {}
                body = response.get("body")
                body = body if isinstance(body, dict) else {}
                if response.get("status_code") == 200:
                    yield Row(row["custom_id"], self.read(body))
                else:
                    error = row.get("error") or body.get("error") or {}
                    reason = error.get("code") or error.get("type")
                    yield Row(
                        row["custom_id"],
                        reason=str(reason or f"HTTP {response.get('status_code')}"),
                    )

    def ended(self, batch: str) -> str:
        found = self._client.batches.retrieve(batch)
        errors = getattr(found.errors, "data", None) or ()
        codes = sorted({str(error.code) for error in errors if error.code})
        return ": ".join([str(found.status), *codes[:1]])


class _Anthropic:
    name = "anthropic"
    most_bytes = 256_000_000
    _most = 100_000

    def __init__(self, client: Any) -> None:
        self._client = client
        self._batches = client.messages.batches
        self.live = client.messages.create

    def read(self, body: dict[str, Any]) -> Any:
        from anthropic.types import Message

        return Message.construct(**body)

    def groups(self, jobs: Iterable[Job]) -> Iterable[Sequence[Job]]:
        return _parts(list(jobs), self._most)

    def submit(self, jobs: Sequence[Job], mark: str) -> str:
        once = self._client.with_options(max_retries=0)  # as above
        requests = [{"custom_id": job.custom_id, "params": job.body} for job in jobs]
        return str(once.messages.batches.create(requests=requests).id)

    def find(self, mark: str, since: float, ids: Collection[str], others: Collection[str]) -> Found:
        # These batches have no metadata. Which requests one holds shows in its results; until then,
        # its time and size say whether it may be the one.
        settled = True
        for batch in self._batches.list(limit=100):  # the newest first
            if batch.created_at.timestamp() < since - _CLOCK_SKEW:
                break
            counts = batch.request_counts
            size = (
                counts.processing
                + counts.succeeded
                + counts.errored
                + counts.canceled
                + counts.expired
            )
            if batch.id in others or size != len(ids):
                continue
            if batch.processing_status != "ended":
                settled = False
            elif self._first_id(batch.id) in ids:
                return Found(str(batch.id))
        return Found(None, settled)

    def _first_id(self, batch: str) -> str | None:
        rows = self._batches.results(batch)
        try:
            first = next(iter(rows), None)
        finally:
            rows.close()
        return None if first is None else str(first.custom_id)

    def is_over(self, batch: str) -> bool:
        return bool(self._batches.retrieve(batch).processing_status == "ended")

    def results(self, batch: str) -> Iterator[Row]:
        for row in self._batches.results(batch):
            if row.result.type == "succeeded":
                yield Row(row.custom_id, row.result.message)
            elif row.result.type == "errored":
                yield Row(row.custom_id, reason=str(row.result.error.error.type))
            else:
                yield Row(row.custom_id, reason=str(row.result.type))

    def ended(self, batch: str) -> str:
        return "no result"


def _parts(jobs: Sequence[Job], most: int) -> Iterator[Sequence[Job]]:
    for start in range(0, len(jobs), most):
        yield jobs[start : start + most]
