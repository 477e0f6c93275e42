"""SQLite databases of GPTCache, whose rows hold the text of a question and of its answer: all else
of the request has to be given."""

import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any, Final

from llm_cache_mem.migration.messages import Chat, answer_of
from llm_cache_mem.migration.sources import Skipped

__all__ = ["records"]

_TEXT: Final = 0  # of its types of answers
_QUERY: Final = """SELECT question, answer, answer_type FROM gptcache_question AS q
    JOIN gptcache_answer AS a ON a.question_id = q.id WHERE q.deleted = 0 ORDER BY q.id, a.id"""


def records(source: str, request: dict[str, Any] | None = None) -> Iterator[Chat | Skipped]:
    """The questions in the file *source*, each as the last message of *request*: the model, and
    whatever messages and params all calls had."""
    path = Path(source)
    with path.open("rb"):  # OSError, which says more than SQLite does
        connection = sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True)
    with closing(connection):
        try:
            rows = connection.execute(_QUERY)
        except sqlite3.DatabaseError:
            yield Skipped("a file that is not a database of GPTCache")
            return
        for question, answer, kind in rows:
            if request is None:
                yield Skipped("a question without its model: give the rest with --request")
            elif kind != _TEXT:
                yield Skipped("an answer that is not text")
            else:
                yield _chat(question, answer, request)


def _chat(question: str, answer: str, request: dict[str, Any]) -> Chat:
    messages = [*request.get("messages", ()), {"role": "user", "content": question}]
    params = {name: value for name, value in request.items() if name != "messages"}
    message = {"role": "assistant", "content": answer}
    return Chat(messages, params, answer_of(message, params["model"], None, "stop"))
