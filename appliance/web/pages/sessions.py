"""Which browsers have logged in. A restart forgets them, and so does the end of what they have logged in with."""

from __future__ import annotations

import hashlib
import secrets
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field

from appliance.contract.times import Clock
from appliance.services.api_keys import ApiKey, Scope

LONGEST_S = 12 * 3600
IDLE_S = 3600
"""So long after the last request; a page that is open asks every minute, so that a screen on the wall stays alive."""
MOST_SESSIONS = 100


@dataclass(slots=True, kw_only=True)
class Session:
    """One browser that has shown the password or an API key. Times are those of the monotonic clock."""

    key: ApiKey | None
    """``None``: the password, which opens everything."""
    generation: int
    """Of the password."""
    begun_at: float
    used_at: float
    csrf: str = field(default_factory=lambda: secrets.token_urlsafe(24), repr=False)
    """Every form carries it: another site can send a form, but cannot know this."""

    @property
    def who(self) -> str:
        """For people, and for the log."""
        return "the password" if self.key is None else f"the API key {self.key.name!r}"

    def may(self, scope: Scope) -> bool:
        """Whether it opens what needs ``scope``."""
        return self.key is None or self.key.may(scope)


class Sessions:
    """At most :data:`MOST_SESSIONS`; of one more the one that was used longest ago ends.

    ``generation``: that of the password now.
    """

    def __init__(self, *, generation: Callable[[], int], clock: Clock) -> None:
        self._generation = generation
        self._clock = clock
        self._sessions: OrderedDict[bytes, Session] = OrderedDict()
        """By the cookie's digest, the one that was used longest ago first."""

    def begin(self, key: ApiKey | None) -> str:
        """A new session; returns the cookie that finds it."""
        while len(self._sessions) >= MOST_SESSIONS:
            self._sessions.popitem(last=False)
        cookie = secrets.token_urlsafe(32)
        now = self._clock.monotonic()
        self._sessions[_digest(cookie)] = Session(key=key, generation=self._generation(), begun_at=now, used_at=now)
        return cookie

    def find(self, cookie: str | None) -> Session | None:
        """The session of this cookie, if it has not ended; it counts as used now."""
        if not cookie:
            return None
        # found by its digest: how long the search takes tells nothing of the cookie
        name = _digest(cookie)
        session = self._sessions.get(name)
        if session is None:
            return None
        if not self.is_open(session):
            del self._sessions[name]
            return None
        session.used_at = self._clock.monotonic()
        self._sessions.move_to_end(name)
        return session

    def is_open(self, session: Session) -> bool:
        """Whether it still opens something: neither too old nor too idle, and its key or password still holds."""
        now = self._clock.monotonic()
        if now - session.begun_at >= LONGEST_S or now - session.used_at >= IDLE_S:
            return False
        if session.key is None:
            return session.generation == self._generation()
        return not session.key.revoked.is_set()

    def end(self, cookie: str | None) -> None:
        """Log out."""
        self._sessions.pop(_digest(cookie or ""), None)

    def __len__(self) -> int:
        return len(self._sessions)


def _digest(text: str) -> bytes:
    return hashlib.sha256(text.encode("utf-8", "replace")).digest()
