"""A data folder as an appliance leaves it, made by the parts that make it."""

from __future__ import annotations

from pathlib import Path

import pytest

from appliance import sealing
from appliance.backup import making
from appliance.identity import read_identity
from appliance.settings import Settings
from appliance.store.database import Database


@pytest.fixture(autouse=True)
def cheap_keys(monkeypatch: pytest.MonkeyPatch) -> None:
    """Finding a key takes a second, and these tests find many."""
    cheap = sealing.Cost(log2_n=4)
    monkeypatch.setattr(making, "derive_key", lambda passphrase: sealing.derive_key(passphrase, cost=cheap))


@pytest.fixture
async def settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Settings:
    monkeypatch.setenv("IIOT_DATA_DIR", str(tmp_path / "data"))
    monkeypatch.setenv("MQTT_CLIENT_ID", "line 1")
    monkeypatch.setenv("ODOO_BASE_URL", "https://odoo.example.com")
    monkeypatch.setenv("ODOO_API_KEY", "5ecret-of-odoo#1")
    monkeypatch.setenv("IIOT_BACKUP_PASSPHRASE", "5ecret-passphrase")
    settings = Settings()
    database = await Database.open(settings.iiot_data_dir)
    await database.run(lambda c: c.execute("INSERT INTO meta VALUES ('note', 'before')").rowcount)
    # something to damage that is no part of the schema
    row = (1, 1, 0, bytes(3000), 0)
    insert = "INSERT INTO messages (device, kind, received_at_ms, flags, payload, crc) VALUES ('press', ?, ?, ?, ?, ?)"
    await database.run(lambda c: c.executemany(insert, [row] * 100).rowcount)
    await database.close()
    read_identity(settings)
    return settings
