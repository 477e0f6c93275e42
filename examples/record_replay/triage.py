"""A support desk's mail, looked through by a language model: what it is about, how urgent it is,
and a first reply."""

import asyncio
import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

TOPICS = ("billing", "delivery", "defect", "other")
URGENCIES = ("low", "high")

_SORTING = (
    'You sort the mail of a shop. Answer with JSON alone: {"topic": "billing" | "delivery" |'
    ' "defect" | "other", "urgency": "low" | "high"}'
)
_REPLYING = "You answer the mail of a shop, in one or two friendly sentences. Promise nothing."
_SCHEMA = {
    "type": "object",
    "properties": {"topic": {"enum": list(TOPICS)}, "urgency": {"enum": list(URGENCIES)}},
    "required": ["topic", "urgency"],
    "additionalProperties": False,
}


@dataclass(frozen=True)
class Ticket:
    """One mail, sorted."""

    mail: str
    topic: str
    urgency: str


class Desk:
    """Sorts and answers mail with *model*, through an OpenAI *client*, or an AsyncOpenAI one for
    ``sort_all``."""

    def __init__(self, client: Any, model: str) -> None:
        self._client = client
        self._model = model

    def sort(self, mail: str) -> Ticket:
        """What *mail* is about. An answer that is none of what was asked for counts as ``other``,
        ``high``: a person will look."""
        answer = self._client.chat.completions.create(**self._sorting(mail))
        return _ticket(mail, answer)

    async def sort_all(self, mails: Iterable[str]) -> list[Ticket]:
        """All *mails* at once; the client is an async one."""

        async def one(mail: str) -> Ticket:
            return _ticket(mail, await self._client.chat.completions.create(**self._sorting(mail)))

        return await asyncio.gather(*map(one, mails))

    def reply(self, ticket: Ticket) -> Iterator[str]:
        """A first reply, in the pieces in which it is written."""
        stream = self._client.chat.completions.create(
            model=self._model,
            messages=[
                {"role": "system", "content": _REPLYING},
                {"role": "user", "content": ticket.mail},
            ],
            max_completion_tokens=60,
            temperature=0,
            stream=True,
        )
        for chunk in stream:
            if chunk.choices and chunk.choices[0].delta.content:
                yield chunk.choices[0].delta.content

    def _sorting(self, mail: str) -> dict[str, Any]:
        return {
            "model": self._model,
            "messages": [
                {"role": "system", "content": _SORTING},
                {"role": "user", "content": mail},
            ],
            "response_format": {
                "type": "json_schema",
                "json_schema": {"name": "ticket", "strict": True, "schema": _SCHEMA},
            },
            "max_completion_tokens": 40,
            "temperature": 0,
        }


def _ticket(mail: str, answer: Any) -> Ticket:
    try:
        said = json.loads(answer.choices[0].message.content or "")
        topic, urgency = said["topic"], said["urgency"]
    except (ValueError, KeyError, TypeError):
        topic = urgency = None
    if topic not in TOPICS or urgency not in URGENCIES:
        return Ticket(mail, "other", "high")
    return Ticket(mail, topic, urgency)
