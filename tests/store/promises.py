"""What a child process was promised before it died, held against what its data folder holds now."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.store.support import NOW_MS, Store, assert_adds_up, open_store
from tests.store.workload import KEEP_SETTLED_BYTES, number_in


@dataclass
class Promises:
    """The notes of :mod:`tests.store.workload`."""

    acknowledged: set[int] = field(default_factory=set)
    msg_ids: dict[str, int] = field(default_factory=dict)
    at_odoo: dict[int, int] = field(default_factory=dict)
    """Number of the reading by ``seq``."""
    settled: set[int] = field(default_factory=set)

    def add(self, notes: str) -> None:
        """Take in complete lines."""
        for line in notes.splitlines():
            what, *values = line.split(" ")
            if what == "o":
                seq, number = int(values[0]), int(values[1])
                assert self.at_odoo.setdefault(seq, number) == number, f"Odoo got another message as {seq}"
            elif what == "s":
                self.settled.add(int(values[0]))
            else:
                self.acknowledged.add(int(values[0]))
                if what == "i":
                    self.msg_ids[values[1]] = int(values[0])

    async def check(self, folder: Path) -> None:
        """Open the folder; every promise must be kept there."""
        store = await open_store(folder, keep_settled_bytes=KEEP_SETTLED_BYTES)
        try:
            await self._check(store)
        finally:
            await store.close()

    async def _check(self, store: Store) -> None:
        await assert_adds_up(store)
        batch = await store.buffer.take(limit=1_000_000, max_bytes=1 << 40)
        waiting = {message.seq: number_in(message.payload) for message in batch.messages}
        parked = dict(await store.query("SELECT seq, payload FROM parked"))
        assert not [seq for seq in parked if seq is None]
        codes: list[Any] = await store.query("SELECT count(*) FROM parked WHERE code <> 'invalid'")
        assert codes == [(0,)], "rows were damaged"
        places = [(seq, number) for seq, number in waiting.items() if number >= 0]
        places += [(seq, number_in(payload)) for seq, payload in parked.items() if number_in(payload) >= 0]
        seq_of = {number: seq for seq, number in places}
        assert len(seq_of) == len(places), "a reading is there twice"
        at_odoo = {number: seq for seq, number in self.at_odoo.items() if number >= 0}
        lost = self.acknowledged - seq_of.keys() - at_odoo.keys()
        assert not lost, f"{len(lost)} acknowledged readings are gone, such as {min(lost)}"
        assert {number for number in seq_of.keys() & at_odoo.keys() if seq_of[number] != at_odoo[number]} == set()
        assert not self.settled & waiting.keys(), "what was settled would be sent again"
        assert batch.floor <= min(waiting, default=batch.floor)
        assert store.buffer.backlog().last_seq >= max(self.at_odoo, default=0), "a number would be used again"
        await self._check_repeats(store)

    async def _check_repeats(self, store: Store) -> None:
        rows = await store.query("SELECT device, payload FROM messages WHERE msg_key IS NOT NULL")
        devices = {number_in(payload): device for device, payload in rows}
        for msg_id, number in list(self.msg_ids.items())[-3:]:
            if number in devices:
                before = store.buffer.backlog().last_seq
                store.buffer.append(devices[number], 1, b'{"n":0}', received_at_ms=NOW_MS, msg_id=msg_id)
                await store.settled_down()
                assert store.buffer.backlog().last_seq == before, f"a repeat of {msg_id} was stored"
