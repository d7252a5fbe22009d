"""Taking secrets out of text that goes to strangers: those that are known by name, and all that looks like one."""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Iterable, Iterator
from pathlib import Path

from pydantic import SecretStr

from appliance.settings import Settings

MASK = "[secret]"
SHORTEST = 4
"""Characters of a secret that is looked for; shorter ones would mask half of any text."""
_MOST_FILE_BYTES = 64 << 10
_PEM = re.compile(r"-----BEGIN [A-Z ]*PRIVATE KEY-----.*?(-----END [A-Z ]*PRIVATE KEY-----|\Z)", re.DOTALL)
_NAMED = re.compile(
    r"(?i)(\b(?:password|passphrase|passwd|secret|token|api[_-]?key|authorization|bearer|cookie|code)\b"
    r"[\"']?\s*[:=]\s*(?:bearer\s+)?[\"']?)([^\s\"',;&]{4,})"
)
_LONG = re.compile(r"[A-Za-z0-9_+=-]{32,}")
"""Every secret that an appliance makes is such a word; so are a few things that are none."""
_QUERY = re.compile(r"([?&][A-Za-z_]{1,20}=)[^\s&\"'<>]+")
"""What stands behind an address: links to firmware are signed there."""
_UUID = re.compile(r"[0-9a-fA-F]{8}-[0-9a-fA-F]{4}-[0-9a-fA-F]{4}-[0-9a-fA-F]{4}-[0-9a-fA-F]{12}")


class Scrubber:
    """Knows the secrets of a box, and masks them in any text."""

    def __init__(self, secrets: Iterable[str]) -> None:
        spellings = {spelling for secret in secrets if len(secret) >= SHORTEST for spelling in _spellings(secret)}
        # the longest first: one may be a part of another
        known = sorted(spellings, key=len, reverse=True)
        self._known = re.compile("|".join(map(re.escape, known))) if known else None

    def clean(self, text: str) -> str:
        """The text without secrets."""
        text = _PEM.sub(MASK, text)
        if self._known is not None:
            text = self._known.sub(MASK, text)
        text = _QUERY.sub(rf"\1{MASK}", _NAMED.sub(rf"\1{MASK}", text))
        return _LONG.sub(lambda found: found[0] if _is_harmless(found[0]) else MASK, text)


def _is_harmless(word: str) -> bool:
    """A UUID, or words with underscores or dashes between them, such as a metric's name."""
    return _UUID.fullmatch(word) is not None or re.fullmatch(r"[a-z_=-]+", word) is not None


def secrets_of(settings: Settings) -> Iterator[str]:
    """Every secret of the settings and of the data folder, as far as it can be read."""
    for name in type(settings).model_fields:
        value = getattr(settings, name)
        if isinstance(value, SecretStr):
            yield value.get_secret_value()
    folder = settings.iiot_data_dir
    for name in ("api_key", "odoo.json", "recovery.json", "recovered.json"):
        yield from _strings(folder / name)
    yield from _of_bytes(folder / "master.key")


def _strings(path: Path) -> Iterator[str]:
    """A file that is one secret, or the values of a JSON object that may be."""
    text = _read(path).decode("utf-8", "replace").strip()
    try:
        found = json.loads(text)
    except ValueError:
        found = None
    if not isinstance(found, dict):
        yield text
        return
    for name, value in found.items():
        if isinstance(value, str) and any(part in name for part in ("key", "salt", "secret", "password")):
            yield value


def _of_bytes(path: Path) -> Iterator[str]:
    content = _read(path)
    if content:
        yield content.hex()
        yield base64.b64encode(content).decode().rstrip("=")
        yield base64.urlsafe_b64encode(content).decode().rstrip("=")


def _read(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            return file.read(_MOST_FILE_BYTES)
    except OSError:
        return b""


def _spellings(secret: str) -> Iterator[str]:
    """As it stands, as JSON writes it, and as URLs do."""
    from urllib.parse import quote

    yield secret
    yield json.dumps(secret)[1:-1]
    yield repr(secret)[1:-1]
    yield quote(secret, safe="")
    yield base64.b64encode(secret.encode()).decode().rstrip("=")
