"""Log lines: for people as text, for programs as one JSON object each; times in UTC."""

from __future__ import annotations

import json
import logging
import time
from typing import IO, Any, Literal

TALKATIVE = ("amqtt", "transitions", "httpx", "httpcore", "uvicorn.access")
"""Libraries that write a line per message at level info."""
FIGURES = "figures"
"""Name of an ``extra`` of a log record: an object that goes into its JSON line as it is."""
_TIME, _MILLISECONDS = "%Y-%m-%dT%H:%M:%S", "%s.%03dZ"
MOST_CHARACTERS = 16_384
"""Of a message, and of a traceback."""


def start_logging(*, level: str, form: Literal["text", "json"], stream: IO[str]) -> None:
    """Write all that is logged from now on to ``stream``."""
    handler = logging.StreamHandler(stream)
    handler.setFormatter(JsonFormatter() if form == "json" else text_formatter())
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)
    if level != "debug":
        for name in TALKATIVE:
            logging.getLogger(name).setLevel(logging.WARNING)


def text_formatter() -> logging.Formatter:
    """Time, level, part, message."""
    formatter = logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s")
    formatter.converter = time.gmtime
    formatter.default_time_format, formatter.default_msec_format = _TIME, _MILLISECONDS
    return formatter


class JsonFormatter(logging.Formatter):
    """``time``, ``level``, ``logger``, ``message``; ``error`` with a traceback, ``figures`` where there are some."""

    converter = staticmethod(time.gmtime)
    default_time_format, default_msec_format = _TIME, _MILLISECONDS

    def format(self, record: logging.LogRecord) -> str:
        """One line, of ASCII: no terminal acts upon what a device has sent."""
        line: dict[str, Any] = {
            "time": self.formatTime(record),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage()[:MOST_CHARACTERS],
        }
        if record.exc_info:
            line["error"] = self.formatException(record.exc_info)[-MOST_CHARACTERS:]
        figures = getattr(record, FIGURES, None)
        if isinstance(figures, dict):
            line[FIGURES] = figures
        return json.dumps(line, default=str)
