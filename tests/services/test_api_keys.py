"""Keys of the API: found in constant steps, kept as digests, gone when revoked, counted and bounded."""

from __future__ import annotations

import hashlib
import hmac
import logging
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from appliance.contract.times import Clock
from appliance.errors import (
    ApiKeyExistsError,
    BuiltinApiKeyError,
    StoreUnavailableError,
    TooManyApiKeysError,
    UnknownApiKeyError,
)
from appliance.services.api_keys import BUILTIN_ID, SCOPES, USE_WRITTEN_EVERY_S, ApiKeys
from appliance.store import api_keys as table
from appliance.store.database import Database

OWN = "the-appliance-s-own-key"


class TestClock(Clock):
    __test__ = False
    ahead = 0.0

    def monotonic(self) -> float:
        return super().monotonic() + self.ahead

    def now_ms(self) -> int:
        return 1_800_000_000_000 + int(self.ahead * 1000)


@dataclass
class Box:
    database: Database
    clock: TestClock
    keys: ApiKeys

    async def restarted(self) -> ApiKeys:
        keys = ApiKeys(database=self.database, own_keys=[OWN], clock=self.clock)
        await keys.load()
        return keys

    async def written(self) -> list[int | None]:
        return [row.last_used_at_ms for row in await self.database.run(table.read_keys)]


@pytest.fixture
async def box(tmp_path: Path) -> AsyncIterator[Box]:
    clock = TestClock()
    database = await Database.open(tmp_path, clock=clock)
    yield Box(database, clock, ApiKeys(database=database, own_keys=[OWN], clock=clock))
    await database.close()


def content(folder: Path) -> bytes:
    return b"".join(path.read_bytes() for path in folder.iterdir() if path.is_file())


async def test_a_key_opens_at_once_and_after_a_restart_and_nothing_like_it_does(box: Box) -> None:
    key, text = await box.keys.create("odoo", "operate")
    assert text.startswith(f"{key.prefix}_")
    for keys in (box.keys, await box.restarted()):
        found = keys.find(text)
        assert found is not None
        assert (found.name, found.scope, found.builtin) == ("odoo", "operate", False)
        for wrong in (text[:-1], text + "0", text.upper(), key.key_id, text[:14], "", "iiot_", text.replace("_", "-")):
            assert keys.find(wrong) is None


async def test_the_appliance_s_own_key_stays_valid_and_may_do_everything(box: Box) -> None:
    found = box.keys.find(OWN)
    assert found is not None
    assert (found.key_id, found.scope, found.prefix) == (BUILTIN_ID, "full", None)
    assert [key.key_id for key in box.keys.all()] == [BUILTIN_ID]
    with pytest.raises(BuiltinApiKeyError):
        await box.keys.revoke(BUILTIN_ID)
    assert box.keys.find(OWN) is found


async def test_neither_file_nor_log_nor_repr_tells_a_key(
    box: Box, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    key, text = await box.keys.create("odoo", "read")
    await box.keys.revoke(key.key_id)
    secret = text[-64:]
    assert secret not in caplog.text
    assert OWN not in repr(box.keys.all())
    assert hashlib.sha256(text.encode()).hexdigest() not in repr(key)
    _, text = await box.keys.create("odoo", "read")
    await box.database.close()
    kept = content(tmp_path)
    assert hashlib.sha256(text.encode()).digest() in kept
    assert text[-64:].encode() not in kept
    assert OWN.encode() not in kept


async def test_every_comparison_is_constant_in_time(box: Box, monkeypatch: pytest.MonkeyPatch) -> None:
    _, text = await box.keys.create("odoo", "read")
    compared: list[tuple[Any, Any]] = []

    def compare(one: bytes, other: bytes) -> bool:
        compared.append((one, other))
        return one == other

    monkeypatch.setattr(hmac, "compare_digest", compare)
    steps = set()
    for presented in (text, text[:-1] + "x", "iiot_aaaaaaaa_" + text[-64:], "nothing", OWN):
        compared.clear()
        box.keys.find(presented)
        assert all(one == hashlib.sha256(presented.encode()).digest() for one, _ in compared)
        steps.add(len(compared))
    assert steps == {2}  # one named key or nobody's, and the appliance's own, whoever asks


async def test_a_revoked_key_opens_nothing_and_whoever_streams_with_it_is_told(box: Box) -> None:
    key, text = await box.keys.create("odoo", "read")
    assert not key.revoked.is_set()
    await box.keys.revoke(key.key_id)
    assert key.revoked.is_set()
    assert box.keys.find(text) is None
    assert (await box.restarted()).find(text) is None
    with pytest.raises(UnknownApiKeyError):
        await box.keys.revoke(key.key_id)
    # the name is free again, and the old key stays shut
    await box.keys.create("odoo", "read")
    assert box.keys.find(text) is None


async def test_a_key_that_cannot_be_deleted_now_is_shut_all_the_same(box: Box, monkeypatch: pytest.MonkeyPatch) -> None:
    key, text = await box.keys.create("odoo", "read")

    async def failing(job: Any, **_: Any) -> None:
        raise StoreUnavailableError("the disk is full")

    with monkeypatch.context() as patched:
        patched.setattr(box.database, "run", failing)
        with pytest.raises(StoreUnavailableError):
            await box.keys.revoke(key.key_id)
        assert box.keys.find(text) is None
    await box.keys.revoke(key.key_id)
    assert (await box.restarted()).find(text) is None


async def test_two_keys_cannot_have_one_name_and_there_is_room_for_a_hundred(box: Box) -> None:
    key, _ = await box.keys.create("key-0", "read")
    with pytest.raises(ApiKeyExistsError):
        await box.keys.create("key-0", "full")
    for number in range(1, table.MOST_KEYS):
        await box.keys.create(f"key-{number}", "read")
    with pytest.raises(TooManyApiKeysError):
        await box.keys.create("one-more", "read")
    assert len((await box.restarted()).all()) == table.MOST_KEYS + 1
    await box.keys.revoke(key.key_id)
    await box.keys.create("one-more", "read")


async def test_the_last_use_is_known_at_once_and_written_rarely(box: Box) -> None:
    key, text = await box.keys.create("odoo", "read")
    assert (key.last_used_at_ms, await box.written()) == (None, [None])
    begin = box.clock.now_ms()
    box.keys.find(text)
    box.clock.ahead = 1
    box.keys.find(text)
    assert (key.last_used_at_ms, await box.written()) == (begin + 1000, [begin])
    box.clock.ahead = USE_WRITTEN_EVERY_S
    box.keys.find(text)
    assert await box.written() == [begin + int(USE_WRITTEN_EVERY_S * 1000)]
    assert [key.last_used_at_ms for key in (await box.restarted()).all()][1:] == await box.written()


async def test_a_use_that_cannot_be_written_hurts_nobody(box: Box) -> None:
    _, text = await box.keys.create("odoo", "read")
    await box.database.close()
    assert box.keys.find(text) is not None


def test_each_scope_holds_those_before_it() -> None:
    assert SCOPES == ("metrics", "read", "operate", "full")


async def test_a_scope_that_only_a_newer_version_knows_opens_next_to_nothing(box: Box) -> None:
    row = table.ApiKeyRow("aaaaaaaa", "later", "godlike", b"d" * 32, 0)
    await box.database.run(lambda connection: table.insert_key(connection, row))
    (_, key) = (await box.restarted()).all()
    assert (key.scope, key.may("metrics"), key.may("read")) == ("metrics", True, False)
