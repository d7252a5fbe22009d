"""The last log lines in memory: few, short, and without secrets."""

from __future__ import annotations

import logging
from collections.abc import Iterator

import pytest

from appliance.parts.log_ring import MOST_BYTES, MOST_CHARACTERS, MOST_LINES, LogRing

SECRET = "the-key-for-odoo-0123456789"
log = logging.getLogger("tests.log_ring")


@pytest.fixture
def ring() -> Iterator[LogRing]:
    ring = LogRing([SECRET, "", "abc"])
    log.addHandler(ring)
    log.setLevel(logging.INFO)
    yield ring
    log.removeHandler(ring)


def test_a_line_has_its_time_level_and_logger(ring: LogRing) -> None:
    log.warning("%d messages wait", 7)
    (line,) = ring.lines()
    assert line.endswith("Z WARNING tests.log_ring: 7 messages wait")
    assert line[:2] == "20"


def test_only_the_newest_stay_and_none_is_long(ring: LogRing) -> None:
    for number in range(MOST_LINES + 50):
        log.info("line %d", number)
    assert len(ring.lines()) == MOST_LINES
    assert ring.lines()[-1].endswith(f"line {MOST_LINES + 49}")
    for _ in range(MOST_LINES):
        log.info("x" * 10_000)
    lines = ring.lines()
    assert {len(line) for line in lines} == {MOST_CHARACTERS}
    assert sum(map(len, lines)) <= MOST_BYTES
    log.info("short again")
    for _ in range(MOST_LINES):
        log.info("short again")
    assert len(ring.lines()) == MOST_LINES, "the long ones are forgotten in the sum too"


@pytest.mark.parametrize(
    "text",
    [
        f"Odoo was asked with {SECRET}",
        f"Authorization: Bearer {'k' * 40}",
        f"{{'X-API-Key': '{'k' * 40}'}}",
        f"GET /?token={'k' * 40}&x=1",
        f"password={'k' * 40}",
        f'"secret": "{"k" * 40}"',
        f"key iiot_abcdefgh_{'0' * 64}",
        f"sent Basic {'k' * 40}==",
        f"passphrase: {'k' * 40}",
    ],
)
def test_secrets_do_not_show(ring: LogRing, text: str) -> None:
    log.error(text)
    (line,) = ring.lines()
    assert "k" * 40 not in line
    assert "0" * 64 not in line
    assert SECRET not in line
    assert "\N{HORIZONTAL ELLIPSIS}" in line


def test_what_is_no_secret_stays(ring: LogRing) -> None:
    text = "SHA-256 fingerprint of the certificate authority: AA:BB:CC; the token of press-01 was used; 3 tokens"
    log.info(text)
    assert ring.lines()[0].endswith(text)


def test_a_traceback_is_part_of_its_line_and_scrubbed(ring: LogRing) -> None:
    try:
        raise ValueError(SECRET)
    except ValueError:
        log.exception("failed")
    (line,) = ring.lines()
    assert "Traceback" in line
    assert SECRET not in line
