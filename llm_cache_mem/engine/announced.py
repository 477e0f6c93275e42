"""Follow the caches of this process: those that are open and those still to be made."""

from collections.abc import Callable
from threading import RLock
from typing import Any
from weakref import WeakSet

__all__ = ["announce", "follow"]

_lock = RLock()
_caches: "WeakSet[Any]" = WeakSet()
_followers: tuple[Callable[[Any], object], ...] = ()


def announce(cache: Any) -> None:
    """Tell followers of *cache*, which has just been made."""
    with _lock:
        _caches.add(cache)
    for follower in _followers:
        follower(cache)


def follow(follower: Callable[[Any], object]) -> Callable[[], None]:
    """Call *follower* with each cache, now and when one is made; returns what ends that."""
    global _followers
    with _lock:
        known = list(_caches)
        _followers = (*_followers, follower)
    for cache in known:
        follower(cache)

    def stop() -> None:
        global _followers
        with _lock:
            _followers = tuple(other for other in _followers if other is not follower)

    return stop
