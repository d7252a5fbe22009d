"""Fixtures for all tests."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from appliance.settings import PREFIXES, Settings

ROOT = Path(__file__).parent.parent
CLEAN_ENVIRONMENT = {
    name: value
    for name, value in os.environ.items()
    if not name.startswith(PREFIXES) and name.lower() not in Settings.model_fields and name != "STATE_DIRECTORY"
}
"""For processes under test: nothing that the caller's shell happens to set for an appliance."""


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """No test sees settings of the shell that started it."""
    for name in set(os.environ) - set(CLEAN_ENVIRONMENT):
        monkeypatch.delenv(name)
