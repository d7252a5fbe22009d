"""The store with one thing broken, in a copy of the package: the fitting test must fail, or it proves nothing."""

from __future__ import annotations

import asyncio
import os
import re
import shutil
import sys
from dataclasses import dataclass, field
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
LONG = bool(os.environ.get("IIOT_TEST_LONG"))
AT_ONCE = 2
LONGEST_S = 100


@dataclass(frozen=True)
class Mutant:
    """What is broken, where, and which test (a file of this folder, words of the name) finds out."""

    name: str
    file: str
    changes: dict[str, str]
    test: tuple[str, str]
    quick: bool = False
    """Tried in the ordinary run too."""
    more: dict[str, dict[str, str]] = field(default_factory=dict)
    """Changes in other files."""


MUTANTS = [
    Mutant(
        "a commit does not wait for the medium",
        "connection.py",
        {'"synchronous": 2,': '"synchronous": 1,'},
        ("test_power_cut.py", "whatever_a_power_cut"),
        quick=True,
    ),
    Mutant(
        "receipts before the commit",
        "writer.py",
        {
            "                self._commit(entries)\n": (
                "                self.call_on_loop(self._deliver, entries)\n                self._commit(entries)\n"
            ),
            "        if entries:\n            self.call_on_loop(self._deliver, entries)\n        return True": (
                "        return True"
            ),
        },
        ("test_power_cut.py", "whatever_a_power_cut"),
        quick=True,
    ),
    Mutant(
        "numbers are used again after draining",
        "schema.py",
        {"    seq INTEGER PRIMARY KEY AUTOINCREMENT,\n": "    seq INTEGER PRIMARY KEY,\n"},
        ("test_buffer.py", "numbers_go_on"),
        quick=True,
        more={
            "meta.py": {
                "SELECT seq FROM sqlite_sequence WHERE name = 'messages'": "SELECT coalesce(max(seq), 0) FROM messages"
            }
        },
    ),
    Mutant(
        "the checksum is not looked at",
        "messages.py",
        {"    if not intact:\n": "    if False:\n"},
        ("test_buffer.py", "damaged_message_is_parked"),
        quick=True,
    ),
    Mutant(
        "memory is not rolled back with the file",
        "writer.py",
        {"            self._memory_is_stale = True\n            if conn": "            if conn"},
        ("test_faults.py", "leaves_no_message_id_behind"),
        quick=True,
    ),
    Mutant(
        "what waits is not written down",
        "outgoing.py",
        {'        set_meta(connection, "counted_waiting", self.waiting)\n': ""},
        ("test_buffer.py", "counted_on_after_a_restart"),
        quick=True,
    ),
    Mutant(
        "rows are removed before Odoo's answer",
        "buffer.py",
        {"bound = min(self._outgoing.settled.up_to, self._outgoing.counted_seq)": "bound = newest"},
        ("test_history.py", "what_waits_is_never_removed"),
        quick=True,
    ),
    Mutant(
        "what is there is read after the writer has begun to count",
        "buffer.py",
        {
            "        await self._database.run(self._start)\n": (
                "        self._database.attach(self)\n        await self._database.run(self._restore)\n"
            )
        },
        ("test_recent_ids.py", "noticed_across_a_restart"),
        quick=True,
    ),
    Mutant(
        "a rejected message counts as confirmed",
        "outgoing.py",
        {
            "        if lost:\n": (
                "        for low, high in lost:\n            epochs.confirm(low, high)\n        if lost:\n"
            ),
        },
        ("test_buffer.py", "floor_and_confirmed_follow"),
    ),
    Mutant(
        "the log is trusted after another process's syncs have failed",
        "folder.py",
        {"            if not self._distrust.exists():\n": "            if True:\n"},
        ("test_power_cut.py", "process_that_follows"),
    ),
    Mutant(
        "the log is trusted after a failed sync",
        "writer.py",
        {"            self._must_reopen = True\n": ""},
        ("test_faults.py", "the_log_is_written_anew"),
    ),
    Mutant(
        "jobs wait behind rows in a full store",
        "writer.py",
        {"jobs = self._take_jobs()": "jobs = self._take_jobs() if self.queued < GROUP_ROWS else []"},
        ("test_faults.py", "behind_more_rows"),
    ),
    Mutant(
        "settled rows keep their room",
        "history.py",
        {"by_size = bound if pressed else bound": "by_size = bound"},
        ("test_faults.py", "gives_way"),
    ),
    Mutant(
        "what was put back is in another order",
        "writer.py",
        {"self._entries.extendleft(reversed(entries))": "self._entries.extendleft(entries)"},
        ("test_faults.py", "committed_once_and_in_order"),
    ),
    Mutant(
        "receipts of jobs come last",
        "database.py",
        {
            "        for entry in entries:\n            if isinstance(entry, Job):\n                jobs": (
                "        for entry in sorted(entries, key=lambda entry: isinstance(entry, Job)):\n"
                "            if isinstance(entry, Job):\n                jobs"
            )
        },
        ("test_database.py", "order_of_their_rows_and_jobs"),
    ),
    Mutant(
        "a failed job leaves half its work",
        "writer.py",
        {'            connection.execute("ROLLBACK TO job")\n': ""},
        ("test_database.py", "undoes_only_itself"),
    ),
    Mutant(
        "two processes on one folder",
        "folder.py",
        {"fcntl.flock(lock_file, fcntl.LOCK_EX | fcntl.LOCK_NB)": "pass"},
        ("test_database.py", "another_process_is_refused"),
    ),
    Mutant(
        "a dead writer leaves its callers alone",
        "database.py",
        {'        self._refuse_left_over(f"nothing can be stored ({self.unavailable})")\n': ""},
        ("test_faults.py", "nobody_waits_for_it"),
    ),
    Mutant(
        "a row under a wrong number passes",
        "messages.py",
        {"CRC_MASK = 0xFFFF_FFFF": "CRC_MASK = 0"},
        ("test_buffer.py", "under_a_wrong_number"),
    ),
    Mutant(
        "rows that are gone hold the floor",
        "messages.py",
        {
            "        if seq > expected:\n": "        if False:\n",
            "    if expected <= last:\n": "    if False:\n",
        },
        ("test_buffer.py", "gone_from_the_file"),
    ),
    Mutant(
        "one name that is no text stops everything",
        "connection.py",
        {'    connection.text_factory = lambda text: text.decode(errors="replace")\n': ""},
        ("test_buffer.py", "keep_the_file_from_being_opened"),
    ),
    Mutant(
        "readings are settled without being counted",
        "outgoing.py",
        {"count_readings(connection, device, stored=count)": "pass"},
        ("test_buffer.py", "lanes_may_settle"),
    ),
    Mutant(
        "repeats across a restart are stored",
        "buffer.py",
        {"        self._recent.restore(connection, self._ids_written_up_to)\n": ""},
        ("test_recent_ids.py", "kill_9"),
    ),
    Mutant(
        "ids go with the rows that hold them",
        "buffer.py",
        {"            self._keep_ids(connection, newest, pressed=pressed)\n": ""},
        ("test_recent_ids.py", "with_and_without_restarts"),
    ),
    Mutant(
        "one page is given back at a time",
        "history.py",
        {"for _ in range(VACUUM_PAGES):": "for _ in range(1):"},
        ("test_history.py", "shrinks_after_draining"),
    ),
    Mutant(
        "age is counted by the wall clock",
        "history.py",
        {"now_ms = self._offset_ms + int(self._clock.monotonic() * 1000)": "now_ms = self._clock.now_ms()"},
        ("test_history.py", "jump_of_the_wall_clock"),
    ),
    Mutant(
        "a file from a newer version is taken",
        "connection.py",
        {"    elif newer:\n": "    elif False:\n"},
        ("test_schema.py", "newer_version"),
    ),
    Mutant(
        "a file of another program is taken",
        "connection.py",
        {"    if application != APPLICATION_ID and (application or tables):\n": "    if False:\n"},
        ("test_schema.py", "another_program"),
    ),
    Mutant(
        "who waits is not told of messages",
        "buffer.py",
        {"            if self._news:\n": "            if len(self._news) > 1:\n"},
        ("test_buffer.py", "waiting_for_messages"),
    ),
    Mutant(
        "what was parked is sent again",
        "outgoing.py",
        {"                yield from stored_parts(connection, low, high)\n": "                yield low, high\n"},
        ("test_epochs.py", "what_was_parked_does_not"),
        quick=True,
    ),
    Mutant(
        "what waits again is removed",
        "outgoing.py",
        {"        self._history.hold_from(connection, from_seq)\n": ""},
        ("test_epochs.py", "is_not_removed_though"),
    ),
    Mutant(
        "what waits again still counts as stored",
        "outgoing.py",
        {"                count_readings(connection, device, stored=-count)\n": "                pass\n"},
        ("test_epochs.py", "what_was_parked_does_not"),
    ),
    Mutant(
        "a batch mixes epochs",
        "outgoing.py",
        {"            if messages and name != epoch:\n": "            if False:\n"},
        ("test_epochs.py", "ends_where_another_epoch_begins"),
        quick=True,
    ),
    Mutant(
        "what Odoo has gets the new name too",
        "epochs.py",
        {"            if before < first:\n": "            if False:\n"},
        ("test_epochs.py", "keeps_its_own"),
    ),
    Mutant(
        "a renewal does not wait for what is on its way",
        "buffer.py",
        {
            "        async with self.in_flight:\n            epoch = await": (
                "        async with asyncio.Lock():\n            epoch = await"
            )
        },
        ("test_epochs.py", "until_nothing_is_on_its_way"),
    ),
    Mutant(
        "what is lost for good is told again and again",
        "outgoing.py",
        {"        note_unstored(connection, gone, oldest=self._history.oldest)\n": ""},
        ("test_epochs.py", "is_told_once"),
    ),
    Mutant(
        "other kinds are not found again",
        "outgoing.py",
        {
            '"INSERT INTO ordered SELECT seq FROM messages WHERE seq BETWEEN ? AND ? AND kind <> ?"': (
                '"SELECT ?, ?, ?"'
            )
        },
        ("test_epochs.py", "wait_again_in_their_own_lane"),
    ),
    Mutant(
        "confirmed is not lowered",
        "outgoing.py",
        {"        epochs.lower(epoch, self._highest_confirmed(connection, epoch, from_seq))\n": ""},
        ("test_epochs.py", "settled_is_lowered"),
    ),
]


def make(mutant: Mutant, folder: Path) -> None:
    """A copy of what the test needs, broken."""
    folder.mkdir()
    shutil.copytree(ROOT / "appliance", folder / "appliance", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copytree(ROOT / "tests" / "store", folder / "tests" / "store", ignore=shutil.ignore_patterns("__pycache__"))
    for file in ("pyproject.toml", "tests/__init__.py", "tests/conftest.py"):
        shutil.copy(ROOT / file, folder / file)
    for file, changes in {mutant.file: mutant.changes, **mutant.more}.items():
        path = folder / "appliance" / "store" / file
        text = path.read_text()
        for old, new in changes.items():
            assert text.count(old) == 1, f"{mutant.name}: {file} does not hold this once: {old!r}"
            text = text.replace(old, new)
        path.write_text(text)


async def survives(mutant: Mutant, folder: Path) -> str | None:
    """``None`` if its test fails; what its run said if it does not, or breaks in another way."""
    file, words = mutant.test
    arguments = ["-m", "pytest", f"tests/store/{file}", "-k", words, "-x", "-q", "-p", "no:cacheprovider"]
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        *arguments,
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(folder), "PYTHONDONTWRITEBYTECODE": "1", "IIOT_TEST_LONG": ""},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    try:
        output, _ = await asyncio.wait_for(process.communicate(), LONGEST_S)
    except TimeoutError:
        process.kill()
        return f"{mutant.name}: its test hangs"
    text = output.decode()
    if process.returncode == 1 and re.search(r"^1 failed(, \d+ \w+)* in ", text, re.MULTILINE):
        return None
    return f"{mutant.name} (exit {process.returncode})\n{text[-1500:]}"


async def test_no_mutant_survives(tmp_path: Path) -> None:
    mutants = [mutant for mutant in MUTANTS if mutant.quick or LONG]
    turns = asyncio.Semaphore(AT_ONCE)

    async def try_one(number: int, mutant: Mutant) -> str | None:
        async with turns:
            folder = tmp_path / str(number)
            await asyncio.to_thread(make, mutant, folder)
            return await survives(mutant, folder)

    results = await asyncio.gather(*(try_one(number, mutant) for number, mutant in enumerate(mutants)))
    survivors = [result for result in results if result]
    assert not survivors, "\n\n".join(survivors)


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.name)
def test_every_mutant_can_still_be_made(mutant: Mutant, tmp_path: Path) -> None:
    """Also those that only the long run tries: the table follows the code."""
    for file, changes in {mutant.file: mutant.changes, **mutant.more}.items():
        text = (ROOT / "appliance" / "store" / file).read_text()
        for old, new in changes.items():
            assert text.count(old) == 1, f"{file} does not hold this once: {old!r}"
            text = text.replace(old, new)
        compile(text, file, "exec")
    assert mutant.test[1] in (ROOT / "tests" / "store" / mutant.test[0]).read_text()
