"""Write the files of other libraries' caches, in an environment that has these libraries: ``python
writing.py KIND FOLDER URL``, URL being that of a provider with OpenAI's API.

The calls that a test makes again afterwards are functions of their own.
"""

import sys
import warnings
from pathlib import Path
from typing import Any

__all__ = ["QUESTIONS", "ask_langchain"]

QUESTIONS = ("What is the capital of France?", "Name a tea.", "What is 6 x 7?")


def ask_langchain(cache: Any, url: str) -> list[str]:
    """Eight calls of ChatOpenAI, of which two are the same request to a provider."""
    from langchain_core.messages import AIMessage, HumanMessage, SystemMessage, ToolMessage
    from langchain_openai import ChatOpenAI

    settings: dict[str, Any] = {"base_url": f"{url}/v1", "api_key": "none", "cache": cache}
    model = ChatOpenAI(model="gpt-4o", **settings)
    patient = ChatOpenAI(model="gpt-4o", max_retries=7, **settings)
    special = ChatOpenAI(
        model="gpt-5-mini",
        reasoning_effort="low",
        default_headers={"x-team": "a"},
        model_kwargs={"user": "me"},
        **settings,
    )
    tool = {"name": "add", "description": "Add.", "parameters": {"type": "object"}}
    call = {"name": "add", "args": {"a": 1}, "id": "call_1"}
    history = [
        SystemMessage("Be brief."),
        HumanMessage([{"type": "text", "text": "6 x 7?"}]),
        AIMessage("", tool_calls=[call]),
        ToolMessage("42", tool_call_id="call_1"),
    ]
    answers = [
        *(model.invoke(question) for question in QUESTIONS),
        patient.invoke(QUESTIONS[0]),
        special.invoke(QUESTIONS[0]),
        model.invoke(history),
        model.bind(temperature=0.5).invoke("Name a cup.", stop=["honey"]),
        model.bind_tools([tool]).invoke("Name a cup."),
    ]
    return [str(answer.content) for answer in answers]


def langchain(folder: Path, url: str) -> None:
    """Databases of SQLiteCache and of SQLAlchemyCache with its table of digests; a model of which
    LangChain says too little is in both."""
    from langchain_community.cache import SQLAlchemyMd5Cache, SQLiteCache
    from langchain_core.language_models import FakeListChatModel
    from sqlalchemy import create_engine

    engine = create_engine(f"sqlite:///{folder / 'md5.db'}")
    for cache in (SQLiteCache(str(folder / "langchain.db")), SQLAlchemyMd5Cache(engine=engine)):
        ask_langchain(cache, url)
        FakeListChatModel(responses=["a"], cache=cache).invoke(QUESTIONS[0])


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    globals()[sys.argv[1]](Path(sys.argv[2]), sys.argv[3])
