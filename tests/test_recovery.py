"""What Odoo keeps for another box: small, readable with the passphrase alone, and forgiving to who types it."""

from __future__ import annotations

import secrets
import stat
from base64 import b64decode, b64encode
from pathlib import Path

import pytest
from pydantic import SecretStr

from appliance import recovery, sealing
from appliance.errors import DataFolderError, SealError
from appliance.recovery import Held, HeldSecrets, Identity


@pytest.fixture(autouse=True)
def cheap_keys(monkeypatch: pytest.MonkeyPatch) -> None:
    """Finding a key takes a second, and these tests find many."""
    derive, cheap = sealing.derive_key, sealing.Cost(log2_n=4)
    monkeypatch.setattr(
        sealing, "derive_key", lambda passphrase, *, salt=None, cost=cheap: derive(passphrase, salt=salt, cost=cost)
    )


def identity(held: HeldSecrets | None = None) -> Identity:
    return Identity(
        version="1.0",
        gateway_uid="0" * 36,
        name="line 1",
        master_key=SecretStr(b64encode(bytes(range(32))).decode()),
        authority=SecretStr("-----BEGIN CERTIFICATE-----…"),
        api_key=SecretStr("0123456789abcdef"),
        settings=SecretStr("MQTT_PLAIN_PORT=1883\n"),
        held=held or HeldSecrets(),
    )


def sealed(given: Identity, folder: Path, passphrase: str) -> str:
    recovery.keep_key(folder, passphrase)
    key = recovery.read_key(folder)
    assert key is not None
    parts = key.model_dump()
    seal_key = sealing.SealKey(
        b64decode(key.salt),
        b64decode(key.key.get_secret_value()),
        sealing.Cost(parts["log2_n"], parts["r"], parts["p"]),
    )
    return b64encode(sealing.seal(given.plain(), seal_key)).decode()


def test_a_passphrase_is_understood_however_it_is_typed() -> None:
    printed = recovery.new_passphrase()
    assert len(printed) == 29
    for typed in (printed, printed.lower(), printed.replace("-", ""), printed.replace("-", " ") + " "):
        assert recovery.canonical(typed) == printed
    assert recovery.canonical(printed.replace("0", "O").replace("1", "l")) == printed


def test_a_slip_of_the_pen_is_noticed_before_a_code_is_spent_on_it() -> None:
    """One letter wrong, two that changed places: of ten thousand such slips hardly any passes."""
    unnoticed = 0
    for _ in range(3000):
        printed = recovery.new_passphrase().replace("-", "")
        place = secrets.randbelow(len(printed) - 1)
        wrong = printed[:place] + secrets.choice("23456789") + printed[place + 1 :]
        swapped = printed[:place] + printed[place + 1] + printed[place] + printed[place + 2 :]
        for typed in {wrong, swapped} - {printed}:
            try:
                recovery.canonical(typed)
                unnoticed += 1
            except SealError:
                pass
    assert unnoticed < 30
    for typed in ("", "K7QF", printed + "A", printed[:-1], "ÄÖÜ" * 10):
        with pytest.raises(SealError):
            recovery.canonical(typed)


def test_the_key_is_kept_for_this_user_alone_and_the_passphrase_is_not(tmp_path: Path) -> None:
    passphrase = recovery.make_key(tmp_path)
    assert passphrase is not None
    path = tmp_path / recovery.KEY_FILE
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert passphrase not in path.read_text()
    before = path.read_bytes()
    assert recovery.make_key(tmp_path) is None
    assert path.read_bytes() == before
    assert recovery.make_key(tmp_path, replace=True) not in (None, passphrase)
    path.write_text("{}")
    with pytest.raises(DataFolderError, match="--replace"):
        recovery.read_key(tmp_path)


def test_an_identity_comes_back_with_its_passphrase_alone(tmp_path: Path) -> None:
    given = identity()
    kept = sealed(given, tmp_path, "right")
    assert recovery.unseal(kept, "right") == given
    with pytest.raises(SealError, match="passphrase is wrong"):
        recovery.unseal(kept, "wrong")
    assert "0123456789abcdef" not in repr(given)


def test_ten_thousand_devices_whose_secrets_were_changed_at_different_times_still_fit(tmp_path: Path) -> None:
    held = {f"press-{number:05d}": Held(1 + number % 3, 1 + number % 3) for number in range(10_000)}
    found = recovery.held_secrets(held)
    assert all(found.of(name) == each for name, each in held.items())
    assert len(sealed(identity(found), tmp_path, "right")) <= 64 << 10


def test_most_devices_cost_nothing(tmp_path: Path) -> None:
    held = {f"press-{number:05d}": Held(1, 1) for number in range(10_000)} | {"press-00007": Held(2, 3)}
    found = recovery.held_secrets(held)
    assert len(found.others) == 1
    assert len(sealed(identity(found), tmp_path, "right")) < 4000
    assert (found.of("press-00007"), found.of("press-00008")) == ((2, 3), (1, 1))


def test_what_an_identity_replaces_is_moved_aside(tmp_path: Path) -> None:
    folder, aside = tmp_path / "data", tmp_path / "data" / "before"
    (folder / "tls").mkdir(parents=True)
    for name in ("master.key", "gateway_uid", "tls/authority.pem", "tls/server.pem"):
        (folder / name).write_text(f"the former {name}")
    recovery.become(identity(), folder, passphrase="right", aside=aside)
    assert (folder / "master.key").read_bytes() == bytes(range(32))
    assert (folder / "gateway_uid").read_text() == "0" * 36 + "\n"
    assert (folder / recovery.SETTINGS_FILE).read_text() == "MQTT_PLAIN_PORT=1883\n"
    assert not (folder / "tls" / "server.pem").exists(), "it is issued anew, for this box's names"
    assert (aside / "tls" / "authority.pem").read_text() == "the former tls/authority.pem"
    assert recovery.read_key(folder) is not None, "the same passphrase goes on"
    inheritance = recovery.read_inheritance(folder)
    assert inheritance is not None
    assert inheritance.held("anybody") == (1, 1)
    inheritance.end()
    assert recovery.read_inheritance(folder) is None
