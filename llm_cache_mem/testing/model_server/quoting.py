"""How the stand-in reads: to a prompt that holds a text and a question, its answer is the sentence
of the text that is nearest to it."""

import re

__all__ = ["quote"]

_SHORTEST_TEXT = 400  # characters: less is a question alone
_COMMON = (
    "what|which|when|where|that|this|with|from|have|does|they|them|there|their|into|than|then|your"
)
_WORD = re.compile(rf"\b(?!(?:{_COMMON})\b)[a-z_]{{4,}}")


def quote(prompt: str) -> str | None:
    """A sentence out of *prompt*, or None where that holds no text or no question."""
    questions = re.findall(r"[^.?!:\n]*\?", prompt)
    parts = re.split(r"^-{5,}$", prompt, flags=re.MULTILINE)  # frameworks rule the text off
    if not questions or (len(parts) == 1 and len(prompt) < _SHORTEST_TEXT):
        return None
    wanted = _stems(questions[-1])
    text = parts[1] if len(parts) > 2 else prompt
    return max(_sentences(text), default=None, key=lambda sentence: _likeness(wanted, sentence))


def _sentences(text: str) -> list[str]:
    """Those of the prose: code, headings, tables and marks of Markdown are left out."""
    prose = re.sub(r"^```[\s\S]*?^```$|^[#|].*$|[*`\[]|\]\([^)]*\)", "", text, flags=re.MULTILINE)
    found = (
        one
        for block in re.split(r"\n\s*\n|\n\s*- ", prose)
        for one in re.split(r"(?<=[.!?;])\s", block)
    )
    return [" ".join(one.split()) for one in found if len(one.split()) > 4]


def _stems(text: str) -> set[str]:
    return {word[:5] for word in _WORD.findall(text.lower())}


def _likeness(wanted: set[str], sentence: str) -> float:
    found = _stems(sentence)
    return len(wanted & found) - (
        0.02 * len(found) if wanted & found else 0
    )  # of those without a word in common, the first
