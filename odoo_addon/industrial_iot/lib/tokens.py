"""One-time tokens that people type, keys that machines keep, and the digests of both that are stored."""

from __future__ import annotations

import hashlib
import secrets

TYPED_CHARACTERS = "ABCDEFGHJKLMNPQRSTUVWXYZ23456789"  # no 0, 1, I and O: people type tokens


def new_token() -> str:
    """A one-time token or code as a label shows it, 60 bits: it lives hours, works once, and guesses are limited."""
    return "-".join("".join(secrets.choice(TYPED_CHARACTERS) for _ in range(4)) for _ in range(3))


def new_key() -> str:
    """A key of 256 bits: as strong as its SHA-256 is quick."""
    return secrets.token_urlsafe(32)


def digest(secret: str) -> str:
    """What is stored of a token, code or key: SHA-256 in hexadecimal."""
    return hashlib.sha256(secret.encode()).hexdigest()
