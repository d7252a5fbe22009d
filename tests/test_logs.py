"""Log lines for people and for programs, and the one line a minute."""

from __future__ import annotations

import dataclasses
import io
import json
import logging
from collections.abc import Iterator

import pytest

from appliance.contract.times import Clock
from appliance.logs import TALKATIVE, start_logging
from appliance.parts.summary import Summary
from appliance.store.buffer import Backlog
from appliance.store.dead_letters import Stock
from appliance.store.ledger import LedgerLine
from appliance.web.metrics import Figures, StoreFigures


@pytest.fixture
def stream() -> Iterator[io.StringIO]:
    root = logging.getLogger()
    handlers, levels = root.handlers[:], {name: logging.getLogger(name).level for name in ("", *TALKATIVE)}
    yield io.StringIO()
    root.handlers[:] = handlers
    for name, level in levels.items():
        logging.getLogger(name).setLevel(level)


def test_a_json_line_is_one_object_whatever_is_logged(stream: io.StringIO) -> None:
    start_logging(level="info", form="json", stream=stream)
    log = logging.getLogger("appliance.test")
    log.info("a device said %r", "two\nlines\x1b[31m ü")
    try:
        raise ValueError("of no use")
    except ValueError:
        log.exception("it broke")
    log.info("counted", extra={"figures": {"readings": 3}})
    log.debug("not this")
    first, broken, counted = map(json.loads, stream.getvalue().splitlines())
    assert first.keys() == {"time", "level", "logger", "message"}
    assert (first["level"], first["logger"]) == ("info", "appliance.test")
    assert first["time"].endswith("Z")
    assert len(first["time"]) == 24
    assert "\x1b" not in stream.getvalue()
    assert "ValueError: of no use" in broken["error"]
    assert counted["figures"] == {"readings": 3}


def test_text_stays_as_it_was(stream: io.StringIO) -> None:
    start_logging(level="warning", form="text", stream=stream)
    logging.getLogger("appliance").warning("the disk is full")
    assert stream.getvalue().endswith("Z WARNING appliance: the disk is full\n")


class SteppedClock(Clock):
    def __init__(self) -> None:
        self.seconds = 0.0

    def monotonic(self) -> float:
        return self.seconds


def figures(*, received: int | None = 0, settled: int = 0, online: int = 2, waiting: int = 0) -> Figures:
    total = None if received is None else LedgerLine("", received=received)
    values = {field.name: 0 for field in dataclasses.fields(Figures)} | {
        "version": "1",
        "store": None if total is None else StoreFigures(total=total, stock=Stock(0, 0)),
        "backlog": Backlog(waiting, 0, 8000 if waiting else None, 0, 0),
        "now_ms": 10_000,
        "devices_online": online,
        "devices_paired": 3,
        "uplink_up": True,
        "uplink_alarm": False,
        "uplink_settled": settled,
        "disk": {},
    }
    return Figures(**values)  # type: ignore[arg-type]


async def test_one_line_sums_up_what_happened_and_silence_is_told_once_an_hour(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO, "appliance.parts.summary")
    clock, now = SteppedClock(), [figures(received=100)]

    async def read() -> Figures:
        return now[0]

    summary = Summary(read, clock=clock)
    assert not await summary.look(), "what was there before the start did not happen in this minute"
    now[0] = figures(received=150, settled=40, waiting=10)
    assert await summary.look()
    assert caplog.messages == [
        "in 60 s: readings received 50, messages sent 40; devices online 2 of 3, "
        "messages waiting 10 (the oldest for 2 s), dead letters 0; Odoo answers"
    ]
    assert caplog.records[0].figures["waiting"] == 10  # type: ignore[attr-defined]
    told = 0
    for _ in range(120):
        clock.seconds += 60
        told += await summary.look()
    assert told == 2
    now[0] = figures(received=150, settled=40, waiting=10, online=1)
    assert await summary.look()
    now[0] = figures(received=None)
    assert not await summary.look()
    now[0] = figures(received=151, settled=41, online=1)
    assert await summary.look()
    assert "in 60 s: readings received 1, messages sent 1;" in caplog.messages[-1]
