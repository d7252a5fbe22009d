"""What is remembered of how the appliance stands to Odoo; all of it is bounded and survives."""

from __future__ import annotations

from pathlib import Path

from appliance.store import standing
from appliance.store.buffer import Buffer
from appliance.store.database import Database
from appliance.store.standing import Gap, Standing

DATABASE = "9c1de5ae-4d22-4f09-8d43-6c8f2b1d5f10"


async def begun(database: Database) -> Standing:
    one = Standing(database)
    await one.begin()
    return one


async def opened(folder: Path) -> tuple[Database, Buffer]:
    database = await Database.open(folder)
    buffer = Buffer(database)
    await buffer.load()
    return database, buffer


async def test_starts_that_were_not_answered_are_told_together_until_one_is(tmp_path: Path) -> None:
    database, buffer = await opened(tmp_path)
    first = await begun(database)
    assert [start.first_seq for start in first.unheard] == [1]
    await first.answered(DATABASE)
    for count in (2, 3):
        for _ in range(2):
            buffer.append("press-07", 1, b"{}", received_at_ms=1)
        await database.run(lambda connection: None)
        again = await begun(database)
        assert len(again.starts) == count
    assert [start.first_seq for start in again.unheard] == [3, 5]
    await again.answered(DATABASE)
    assert again.unheard == [again.present]
    last = await begun(database)
    assert last.database_uuid == DATABASE
    assert [start.first_seq for start in last.unheard] == [5]
    assert [start.answered for start in last.starts] == [True, False, True, False]
    await database.close()


async def test_starts_consents_and_gaps_are_bounded(tmp_path: Path) -> None:
    database, _ = await opened(tmp_path)
    one = Standing(database)
    for number in range(standing.STARTS_KEPT + 5):
        await one.begin(consent=f"e-{number}", database_uuid=DATABASE)
    assert len(one.starts) == standing.STARTS_KEPT
    for number in range(standing.GAPS_KEPT + 5):
        await one.keep_gap(Gap(at_ms=number, epoch="e", confirmed=5, known=1, sent_again=3, missing=1))
    assert [gap.at_ms for gap in one.gaps] == list(range(5, standing.GAPS_KEPT + 5))
    rows = await database.run(
        lambda connection: connection.execute("SELECT length(value) FROM standing WHERE name = 'consents'").fetchone()
    )
    assert rows[0] < standing.CONSENTS_KEPT * 10
    await database.close()


async def test_an_enrolment_counts_once_and_forgets_what_the_other_database_had_told(tmp_path: Path) -> None:
    database, _ = await opened(tmp_path)
    one = await begun(database)
    await one.answered(DATABASE)
    await one.keep_cursor("7")
    for cursor in (None, "8"):
        await one.begin(consent="e-1", database_uuid="other")
        assert (one.database_uuid, one.cursor) == ("other", cursor)
        await one.answered("other")
        assert not one.may_take_over
        await one.keep_cursor("8")
    await database.close()
