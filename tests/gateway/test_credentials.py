"""The key of credential namespaces that lies beside a store."""

from pathlib import Path

import pytest

from llm_cache_mem.gateway.credentials import gateway_key


def test_a_file_without_a_key_is_refused(tmp_path: Path) -> None:
    backend = f"sqlite:///{tmp_path}/cache.db"
    made = gateway_key(backend)
    assert gateway_key(backend) == made
    for text in ("", "\n" * 40, "short"):
        (tmp_path / "cache.db.gateway-key").write_text(text)
        with pytest.raises(ValueError, match="holds no key"):
            gateway_key(backend)
