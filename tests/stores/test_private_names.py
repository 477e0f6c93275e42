"""The private names of client libraries that the stores use, and the versions in which they are."""

import re
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest

PYPROJECT = (Path(__file__).parents[2] / "pyproject.toml").read_text()


def names(package: str) -> list[tuple[Any, str]]:
    if package == "redis":
        import redis
        from redis.connection import Connection

        return [(redis, "_parsers"), (redis._parsers, "BaseParser"), (Connection, "_connect")]
    from pymemcache.client.base import Client
    from pymemcache.pool import ObjectPool

    return [(Client, "_connect"), (ObjectPool(dict), "_lock")]


@pytest.mark.parametrize("package", ["redis", "pymemcache"])
def test_private_names_exist_in_every_allowed_version(package: str) -> None:
    pytest.importorskip(package)
    for owner, name in names(package):
        assert hasattr(owner, name), f"{package}: {name} is gone: change the store or the bound"
    (bound,) = set(re.findall(rf'= \["{package}>=\d+,<(\d+)"\]', PYPROJECT))
    assert int(metadata.version(package).split(".")[0]) == int(bound) - 1


def test_encryption_needs_a_release_of_cryptography_without_known_advisories() -> None:
    """Below: CVE-2026-26007 (46.0.5), -34073 (46.0.6), -39892 (46.0.7), OpenSSL in the wheels
    (48.0.1), CVE-2026-69247, -69248 and -69249 (50.0)."""
    assert 'crypto = ["cryptography>=50"]' in PYPROJECT
