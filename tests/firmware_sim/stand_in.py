"""The stand-in for Odoo as a process of its own, for tests."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.conftest import CLEAN_ENVIRONMENT, ROOT

API_KEY = "key-of-the-gateway-for-tests"


@contextmanager
def stand_in(*options: str) -> Iterator[dict[str, str]]:
    """Both addresses of a fresh one: ``url`` and ``control_url``."""
    process = subprocess.Popen(
        [sys.executable, "-m", "firmware_sim", "odoo", "--port", "0", *options],
        cwd=ROOT,
        env={**CLEAN_ENVIRONMENT, "ODOO_API_KEY": API_KEY},
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    try:
        yield json.loads(process.stdout.readline())
    finally:
        process.terminate()
        process.wait(10)
        process.stdout.close()


def data_file(folder: Path) -> str:
    """Where it keeps its memory in this folder."""
    return os.fspath(folder / "odoo.db")
