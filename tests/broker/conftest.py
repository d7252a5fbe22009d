from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.broker.rig import Rig, running


@pytest.fixture
async def rig(tmp_path: Path) -> AsyncIterator[Rig]:
    """A broker with one viewer account ``scada``."""
    async with running(tmp_path, viewers={"scada": "look-only"}) as rig:
        yield rig
