"""SHA-256, loaded when there is first something to hash: importing hashlib takes as long as a tenth
of this library may."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from hashlib import sha256
else:

    def sha256(data):
        """``hashlib.sha256``, which takes this one's place here; so call it as
        ``hashing.sha256``."""
        global sha256
        from hashlib import sha256

        return sha256(data)


__all__ = ["sha256"]
