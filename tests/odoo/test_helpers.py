"""What the helpers decide, without an Odoo."""

from __future__ import annotations

import os
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.odoo.addon_tests import read_outcome
from tests.odoo.cache import cache_folder, files_hash, held, lock_file, make
from tests.odoo.releases import NoOdooError, find, requirements

HEAD = "2026-01-01 00:00:00,000 17"


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("TEST_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def test_an_interrupted_build_leaves_nothing_that_is_taken_for_whole(own_cache: Path) -> None:
    def fails(folder: Path) -> None:
        (folder / "half").touch()
        raise InterruptedError

    def works(folder: Path) -> None:
        (folder / "whole").touch()

    with pytest.raises(InterruptedError):
        make(own_cache / "thing", fails)
    assert not (own_cache / "thing").exists()
    assert [path.name for path in make(own_cache / "thing", works).iterdir()] == ["whole"]
    assert {path.name for path in own_cache.iterdir()} == {"thing", "locks"}, "and what it left is thrown away"


def test_two_runs_at_once_build_once(own_cache: Path) -> None:
    builds = []
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda _: make(own_cache / "thing", builds.append), range(4)))
    assert len(builds) == 1


def test_a_lock_is_shared_by_those_who_share_it_and_refused_to_the_one_who_wants_it_alone() -> None:
    with held("x", shared=True), held("x", shared=True, wait=False) as second:
        assert second
        with held("x", wait=False) as alone:
            assert not alone
    with held("x", wait=False) as alone:
        assert alone


def test_a_lock_whose_file_was_removed_while_one_waited_is_taken_on_the_new_file(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    said = threading.Event()
    monkeypatch.setattr("tests.odoo.cache.say", lambda text: said.set())

    def wait_for_it() -> bool:
        with held("x", note="waiting"), held("x", wait=False) as again:
            return again

    with ThreadPoolExecutor(1) as pool:
        with held("x"):
            waiting = pool.submit(wait_for_it)
            assert said.wait(10)
            lock_file("x").unlink()
        assert waiting.result(timeout=10) is False, "the one who waited holds what later ones find"


def test_what_was_not_used_for_long_makes_room_when_its_like_is_made(own_cache: Path) -> None:
    for name in ("thing-1", "thing-2", "other-1"):
        make(own_cache / name, lambda folder: None)
    for name in ("thing-1", "other-1"):
        os.utime(own_cache / name, (0, 0))
    make(own_cache / "thing-3", lambda folder: None)
    assert {path.name for path in own_cache.iterdir()} == {"thing-2", "thing-3", "other-1", "locks"}


def test_the_hash_of_an_addon_follows_names_and_contents_but_not_its_place(tmp_path: Path) -> None:
    for name in ("one", "other"):
        (tmp_path / name / "m").mkdir(parents=True)
        (tmp_path / name / "m" / "a.py").write_text("1")
    first = files_hash(tmp_path / "one")
    assert files_hash(tmp_path / "other") == first
    (tmp_path / "one" / "m" / "a.py").write_text("2")
    (tmp_path / "other" / "m" / "a.py").rename(tmp_path / "other" / "m" / "b.py")
    assert len({first, files_hash(tmp_path / "one"), files_hash(tmp_path / "other")}) == 3


@pytest.mark.parametrize(
    ("status", "text", "tests", "failed", "good"),
    [
        (
            0,
            f"{HEAD} INFO db odoo.tests.result: 0 failed, 0 error(s) of 8 tests when loading database 'db'",
            8,
            0,
            True,
        ),
        (
            1,
            f"{HEAD} ERROR db odoo.tests.result: 1 failed, 2 error(s) of 8 tests when loading database 'db'",
            8,
            3,
            False,
        ),
        (
            0,
            f"{HEAD} INFO db odoo.tests.result: 0 failed, 0 error(s) of 0 tests when loading database 'db'",
            0,
            0,
            False,
        ),
        (
            1,
            f"{HEAD} INFO db odoo.tests.result: 0 failed, 0 error(s) of 8 tests when loading database 'db'",
            8,
            0,
            False,
        ),
        (0, "", 0, 0, False),
    ],
)
def test_only_a_run_that_tested_something_and_failed_nowhere_is_good(
    tmp_path: Path, status: int, text: str, tests: int, failed: int, good: bool
) -> None:
    (tmp_path / "log").write_text(text)
    outcome = read_outcome(status, tmp_path / "log")
    assert (outcome.tests, outcome.failed, outcome.good) == (tests, failed, good)


def test_a_failure_is_told_with_its_traceback(tmp_path: Path) -> None:
    (tmp_path / "log").write_text(
        f"{HEAD} INFO db odoo.loading: loading\n"
        f"{HEAD} ERROR db odoo.addons.x.tests.test_y: FAIL: TestY.test_z\nTraceback (most recent call last):\n  line\n"
        f"{HEAD} INFO db odoo.loading: done\n"
    )
    assert read_outcome(1, tmp_path / "log").problems == [
        "ERROR odoo.addons.x.tests.test_y: FAIL: TestY.test_z\nTraceback (most recent call last):\n  line"
    ]


def test_an_odoo_that_died_without_a_word_is_told_with_the_end_of_its_log(tmp_path: Path) -> None:
    (tmp_path / "log").write_text("Traceback (most recent call last):\nImportError: nothing\n")
    assert "ImportError: nothing" in read_outcome(1, tmp_path / "log").problems[0]


def test_an_odoo_that_is_not_here_is_told_from_one_that_was_never_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("TEST_ODOO_17", raising=False)
    with pytest.raises(NoOdooError, match="TEST_ODOO_17 names no source tree"):
        find(17)
    monkeypatch.setenv("TEST_ODOO_17", str(tmp_path))
    with pytest.raises(NoOdooError, match="is no source tree of Odoo"):
        find(17)
    monkeypatch.setenv("TEST_ODOO_DEB", str(tmp_path / "none.deb"))
    with pytest.raises(NoOdooError, match="is no file"):
        find(19)
    assert not (cache_folder() / "odoo-19").exists()


def test_the_libraries_of_a_source_tree_leave_out_what_would_have_to_be_compiled(tmp_path: Path) -> None:
    (tmp_path / "requirements.txt").write_text(
        "# list\nBabel==2.10.3 ; python_version >= '3.11'  # min\npsycopg2==2.9.5\npython-ldap==3.4.0\n"
    )
    lines = requirements(17, tmp_path)
    assert "Babel==2.10.3 ; python_version >= '3.11'" in lines
    assert [line for line in lines if line.startswith(("psycopg2", "python-ldap"))] == ["psycopg2-binary==2.9.9"]
    assert any(line.startswith("jsonpath-ng") for line in lines)
