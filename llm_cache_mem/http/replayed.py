"""A stored body, given again in the chunks in which it came."""

from collections.abc import AsyncIterator, Iterator

__all__ = ["AsyncReplayed", "Replayed"]


class Replayed:
    """For sync clients. Iterating it again goes on where it stopped."""

    def __init__(self, chunks: list[bytes]) -> None:
        self._chunks = iter(chunks)

    def __iter__(self) -> Iterator[bytes]:
        return self._chunks

    def close(self) -> None:
        """Give no more."""
        self._chunks = iter(())


class AsyncReplayed:
    """The same for async clients."""

    def __init__(self, chunks: list[bytes]) -> None:
        self._chunks = iter(chunks)

    async def __aiter__(self) -> AsyncIterator[bytes]:
        for chunk in self._chunks:
            yield chunk

    async def aclose(self) -> None:
        """Give no more."""
        self._chunks = iter(())
