"""Escape text that this program did not write before it reaches a terminal or a log."""

__all__ = ["visible"]


def visible(text: str, *, lines: bool = False) -> str:
    """*text* with an escape in place of each character that a terminal might obey, and of each that
    cannot be seen; with *lines*, line breaks stay."""
    if text.isprintable():
        return text
    return "".join(
        char
        if char.isprintable() or (lines and char == "\n")
        else char.encode("unicode_escape", "surrogatepass").decode()
        for char in text
    )
