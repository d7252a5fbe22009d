"""Times: RFC 3339 in UTC with milliseconds on the wire, naive UTC datetimes in Odoo."""

from __future__ import annotations

import re
from datetime import datetime, timedelta, timezone

from .worded import WordedError, _

AHEAD_TOLERANCE = timedelta(minutes=5)
"""A time further ahead of when the appliance received it is not used: the device's clock is wrong."""
_RFC3339 = re.compile(r"(\d{4}-\d\d-\d\d)[Tt ](\d\d:\d\d:\d\d)(\.\d+)?([Zz]|[+-]\d\d:\d\d)", re.ASCII).fullmatch


def parse_rfc3339(text: object) -> datetime:
    """A naive UTC datetime; ``ValueError`` for anything that is no complete RFC 3339 time with its offset."""
    found = _RFC3339(text) if isinstance(text, str) else None
    if found is None:
        raise WordedError(_("not an RFC 3339 time"))
    day, clock, fraction, offset = found.groups()
    # in the one form that Python 3.10 reads
    iso = f"{day}T{clock}.{(fraction or '.0')[1:7]:0<6}{'+00:00' if offset in 'Zz' else offset}"
    try:
        return datetime.fromisoformat(iso).astimezone(timezone.utc).replace(tzinfo=None)
    except OverflowError:
        raise WordedError(_("outside the calendar")) from None


def rfc3339(moment: datetime) -> str:
    """As it goes on the wire; ``moment`` is naive UTC."""
    return moment.isoformat(timespec="milliseconds") + "Z"


def usable_time(at: datetime, received_at: datetime) -> datetime:
    """The time by which a reading counts: its own, unless that is too far ahead of its arrival."""
    return received_at if at > received_at + AHEAD_TOLERANCE else at


def utc_now() -> datetime:
    """Now, as Odoo keeps times: naive UTC."""
    return datetime.now(timezone.utc).replace(tzinfo=None)
