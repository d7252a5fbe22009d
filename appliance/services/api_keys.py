"""Keys of the HTTP API: named, each with a scope, revocable; the appliance keeps their digests and no key.

A key is ``iiot_<id>_<secret>``: the id finds it, and tells people which one they hold; the secret is 256 random bits,
so that a plain SHA-256 of the whole is as good as any slower hash (architecture, decision 7). Beside the named keys
stands the appliance's own (``IIOT_API_KEY`` or the file ``api_key``), which may do everything and is not revoked here.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import logging
import secrets
import sqlite3
from base64 import b32encode
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from functools import partial
from typing import Literal, get_args

from appliance.contract.times import Clock
from appliance.errors import ApiKeyExistsError, BuiltinApiKeyError, TooManyApiKeysError, UnknownApiKeyError
from appliance.store.api_keys import MOST_KEYS, ApiKeyRow, delete_key, insert_key, note_use, read_keys
from appliance.store.database import Database

log = logging.getLogger(__name__)

Scope = Literal["metrics", "read", "operate", "full"]
"""Each includes those before it. ``metrics``: the figures, and health in detail; ``read``: everything that changes
nothing; ``operate``: commands, updates, dead letters, what Odoo needs; ``full``: also the keys themselves."""
SCOPES: tuple[Scope, ...] = get_args(Scope)
BUILTIN_ID = "built-in"
USE_WRITTEN_EVERY_S = 600.0
_MARK = "iiot_"
_ID_BYTES = 5
_ID_CHARACTERS = 8
_SECRET_BYTES = 32
_NOBODY = bytes(32)


@dataclass(eq=False, slots=True, kw_only=True)
class ApiKey:
    """A key that opens the API, or did until it was revoked. Times are milliseconds since 1970."""

    key_id: str
    name: str
    scope: Scope
    created_at_ms: int | None
    """``None`` for the appliance's own."""
    last_used_at_ms: int | None = None
    digest: bytes = field(repr=False)
    revoked: asyncio.Event = field(default_factory=asyncio.Event, repr=False)
    """Set as soon as it opens nothing any more; who serves a stream with it must end it then."""
    written_at: float | None = field(default=None, repr=False)

    @property
    def builtin(self) -> bool:
        """Whether it is the appliance's own."""
        return self.key_id == BUILTIN_ID

    @property
    def prefix(self) -> str | None:
        """How the key begins, to recognise it by; ``None`` for the appliance's own."""
        return None if self.builtin else f"{_MARK}{self.key_id}"

    def may(self, scope: Scope) -> bool:
        """Whether it opens what needs ``scope``."""
        return SCOPES.index(self.scope) >= SCOPES.index(scope)


class ApiKeys:
    """All keys of this appliance; :meth:`load` them before the first request."""

    def __init__(
        self,
        *,
        database: Database,
        own_keys: Iterable[str],
        clock: Clock,
        random_bytes: Callable[[int], bytes] = secrets.token_bytes,
    ) -> None:
        self._database = database
        self._clock = clock
        self._random_bytes = random_bytes
        self._own = [
            ApiKey(key_id=BUILTIN_ID, name=BUILTIN_ID, scope="full", created_at_ms=None, digest=_digest(key))
            for key in own_keys
        ]
        self._keys: dict[str, ApiKey] = {}

    async def load(self) -> None:
        """Read the named keys. :class:`appliance.errors.StoreUnavailableError`."""
        for row in await self._database.run(read_keys):
            self._add(row)

    def find(self, presented: str) -> ApiKey | None:
        """The key that this is, or ``None``. What a wrong one has in common with a right one does not show in time."""
        digest = _digest(presented)
        named = self._keys.get(_id_of(presented))
        found = None
        if hmac.compare_digest(digest, _NOBODY if named is None else named.digest):
            found = named
        for own in self._own:
            if hmac.compare_digest(digest, own.digest):
                found = own
        if found is None or found.revoked.is_set():
            return None
        self._note_use(found)
        return found

    def all(self) -> list[ApiKey]:
        """The appliance's own first, then by name."""
        return [*self._own[:1], *sorted(self._keys.values(), key=lambda key: key.name)]

    async def create(self, name: str, scope: Scope) -> tuple[ApiKey, str]:
        """Make a key; the text is told here and never again.

        :class:`ApiKeyExistsError`, :class:`TooManyApiKeysError`, ``StoreUnavailableError``.
        """
        key_id = b32encode(self._random_bytes(_ID_BYTES)).decode().lower()
        secret = self._random_bytes(_SECRET_BYTES).hex()
        text = f"{_MARK}{key_id}_{secret}"
        row = ApiKeyRow(key_id, name, scope, _digest(text), self._clock.now_ms())

        def job(connection: sqlite3.Connection) -> None:
            if len(read_keys(connection)) >= MOST_KEYS:
                raise TooManyApiKeysError(f"there are {MOST_KEYS} keys already: revoke one first")
            if not insert_key(connection, row):
                raise ApiKeyExistsError("a key has this name already: revoke it first, or take another name")

        await self._database.run(job)
        log.warning("the API key %r with scope %s was made", name, scope)
        return self._add(row), text

    async def revoke(self, key_id: str) -> ApiKey:
        """A key opens nothing any more, from this moment on.

        If it cannot be deleted now (``StoreUnavailableError``) it stays shut while the process lives; ask again.
        :class:`UnknownApiKeyError`, :class:`BuiltinApiKeyError`.
        """
        if key_id == BUILTIN_ID:
            raise BuiltinApiKeyError("the appliance's own key is changed in its settings (IIOT_API_KEY) or data folder")
        key = self._keys.get(key_id)
        if key is None:
            raise UnknownApiKeyError("no key has this id; it may have been revoked already")
        key.revoked.set()
        await self._database.run(partial(delete_key, key_id=key_id))
        self._keys.pop(key_id, None)
        log.warning("the API key %r was revoked", key.name)
        return key

    def _add(self, row: ApiKeyRow) -> ApiKey:
        # a scope of a newer version is nothing this one may guess at
        scope: Scope = next((scope for scope in SCOPES if scope == row.scope), "metrics")
        key = self._keys[row.key_id] = ApiKey(
            key_id=row.key_id,
            name=row.name,
            scope=scope,
            created_at_ms=row.created_at_ms,
            last_used_at_ms=row.last_used_at_ms,
            digest=row.digest,
        )
        return key

    def _note_use(self, key: ApiKey) -> None:
        """Remembered at once, written rarely: a key may be used a thousand times a second."""
        key.last_used_at_ms = self._clock.now_ms()
        now = self._clock.monotonic()
        if key.builtin or (key.written_at is not None and now - key.written_at < USE_WRITTEN_EVERY_S):
            return
        key.written_at = now
        written = self._database.submit(partial(note_use, key_id=key.key_id, at_ms=key.last_used_at_ms))
        # nobody is served worse for it if this cannot be written
        written.add_done_callback(lambda future: future.cancelled() or future.exception())


def _digest(key: str) -> bytes:
    return hashlib.sha256(key.encode("utf-8", "replace")).digest()


def _id_of(presented: str) -> str:
    end = len(_MARK) + _ID_CHARACTERS
    return presented[len(_MARK) : end] if presented.startswith(_MARK) and presented[end : end + 1] == "_" else ""
