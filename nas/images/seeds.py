"""Seeds from several integers."""

import hashlib


def mixed_seed(*numbers: int) -> int:
    """One 63-bit seed from several integers."""
    text = ",".join(map(str, numbers)).encode()
    return int.from_bytes(hashlib.sha256(text).digest()[:8]) >> 1
