"""The parts of llama_index.ipynb that a program takes from packages: a language model and an
embedding model."""

import os
import re
from hashlib import blake2b
from typing import Any

from llama_index.core.base.llms.types import CompletionResponse, CompletionResponseGen, LLMMetadata
from llama_index.core.embeddings import BaseEmbedding
from llama_index.core.llms import CustomLLM
from llama_index.core.llms.callbacks import llm_completion_callback
from openai import OpenAI

__all__ = ["ChatModel", "WordEmbedding"]


class ChatModel(CustomLLM):
    """Calls the OpenAI SDK; stands for ``llama_index.llms.openai.OpenAI``."""

    model: str = os.environ.get("OPENAI_MODEL", "gpt-4.1-mini")
    temperature: float = 0

    @property
    def metadata(self) -> LLMMetadata:
        return LLMMetadata(model_name=self.model, num_output=50, context_window=3500)

    @llm_completion_callback()
    def complete(self, prompt: str, formatted: bool = False, **kwargs: Any) -> CompletionResponse:
        with OpenAI() as client:
            answer = client.chat.completions.create(
                model=self.model,
                messages=[{"role": "user", "content": prompt}],
                max_completion_tokens=50,
                temperature=self.temperature,
            )
        return CompletionResponse(text=answer.choices[0].message.content or "", raw=answer)

    @llm_completion_callback()
    def stream_complete(
        self, prompt: str, formatted: bool = False, **kwargs: Any
    ) -> CompletionResponseGen:
        yield self.complete(prompt, formatted, **kwargs)


class WordEmbedding(BaseEmbedding):
    """Counts words, which needs no download and finds a short text by its words."""

    def _get_text_embedding(self, text: str) -> list[float]:
        vector = [0.0] * 256
        for word in re.findall(r"[a-z]{3,}", text.lower()):
            digest = blake2b(word[:4].encode(), digest_size=4).digest()
            vector[int.from_bytes(digest) % 256] += 1
        return vector

    def _get_query_embedding(self, query: str) -> list[float]:
        return self._get_text_embedding(query)

    async def _aget_query_embedding(self, query: str) -> list[float]:
        return self._get_text_embedding(query)
