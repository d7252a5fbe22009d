"""The last lines of the log in memory, for the gateway's page: few, short, and without secrets."""

from __future__ import annotations

import logging
import re
from collections import deque
from collections.abc import Collection

from appliance.contract.times import rfc3339

MOST_LINES = 300
MOST_BYTES = 96 << 10
MOST_CHARACTERS = 2000
"""Of one record, its traceback included."""
_HIDDEN = "\N{HORIZONTAL ELLIPSIS}"
_KEY = re.compile(r"iiot_[a-z2-7]{8}_[0-9a-f]{16,}")
_NAMED = re.compile(
    r"""((?:pass(?:word|phrase)|secret|token|authorization|api[_-]?key)["']?\s*[:=]\s*)("[^"]*"|'[^']*'|(?:bearer\s+|basic\s+)?[^\s,;"']+)""",
    re.IGNORECASE,
)
_SCHEME = re.compile(r"\b(bearer|basic)\s+[\w.~+/=-]{8,}", re.IGNORECASE)


class LogRing(logging.Handler):
    """A handler that keeps the newest lines. ``secrets`` are the appliance's own, which must not show whatever logs."""

    def __init__(self, secrets: Collection[str] = ()) -> None:
        super().__init__()
        self._secrets = sorted((secret for secret in secrets if len(secret) >= 4), key=len, reverse=True)
        self._lines: deque[str] = deque(maxlen=MOST_LINES)
        self._bytes = 0
        self.setFormatter(logging.Formatter("%(levelname)s %(name)s: %(message)s"))

    def emit(self, record: logging.LogRecord) -> None:
        """Keep a line."""
        try:
            text = self.scrub(f"{rfc3339(int(record.created * 1000))} {self.format(record)}")[:MOST_CHARACTERS]
        except Exception:
            self.handleError(record)
            return
        if len(self._lines) == MOST_LINES:
            self._drop()
        self._lines.append(text)
        self._bytes += len(text)
        while self._bytes > MOST_BYTES:
            self._drop()

    def _drop(self) -> None:
        self._bytes -= len(self._lines.popleft())

    def lines(self) -> list[str]:
        """Oldest first."""
        self.acquire()
        try:
            return list(self._lines)
        finally:
            self.release()

    def scrub(self, text: str) -> str:
        """The text without what looks like a secret, or is one."""
        for secret in self._secrets:
            text = text.replace(secret, _HIDDEN)
        text = _KEY.sub(_HIDDEN, text)
        text = _NAMED.sub(rf"\1{_HIDDEN}", text)
        return _SCHEME.sub(rf"\1 {_HIDDEN}", text)
