"""What another box needs to become this gateway: a few kilobytes, encrypted with a passphrase, kept at Odoo.

The passphrase is made here, printed once and not kept; what stays is the key derived from it, so that the identity can
be encrypted again when it changes. It is 115 random bits in letters that are hard to confuse, with two more that tell a
slip of the pen before a code from Odoo is spent on it.
"""

from __future__ import annotations

import hashlib
import json
import secrets
import shutil
import zlib
from base64 import b64decode, b64encode
from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Annotated, NamedTuple

from pydantic import BaseModel, ConfigDict, Field, SecretStr, ValidationError
from pydantic_core import to_json

from appliance import secret_files
from appliance.contract.device import DeviceId
from appliance.errors import DataFolderError, SealError

KEY_FILE, KEPT_FILE, HELD_FILE = "recovery.json", "identity-kept.json", "recovered.json"
SETTINGS_FILE = "restored-settings.env"
MOST_SEALED_BYTES = 48 << 10
"""64 KiB of base64."""
_MOST_PLAIN_BYTES = 4 << 20
_LETTERS = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"
_RANDOM_LETTERS, _CHECK_LETTERS, _GROUP = 23, 2, 5
_SPELLINGS = str.maketrans({"O": "0", "I": "1", "L": "1", "-": None, " ": None})


class Held(NamedTuple):
    """Which of its secrets a device may have: generations, from the oldest valid one to the newest."""

    valid_from: int
    generation: int


Generation = Annotated[int, Field(ge=1, le=1 << 31)]


class HeldSecrets(BaseModel):
    """Of all devices: most have the same generation, so the others alone are named."""

    model_config = ConfigDict(frozen=True)

    usual: tuple[Generation, Generation] = (1, 1)
    others: dict[DeviceId, tuple[Generation, Generation]] = {}

    def of(self, device_id: str) -> Held:
        """What a device has."""
        return Held(*self.others.get(device_id, self.usual))


class Identity(BaseModel):
    """What makes a box this gateway."""

    model_config = ConfigDict(frozen=True, hide_input_in_errors=True)

    format: Annotated[int, Field(ge=1, le=1)] = 1
    version: str
    gateway_uid: Annotated[str, Field(pattern=r"^[0-9a-fA-F-]{36}$")]
    name: str
    master_key: SecretStr
    """Base64."""
    authority: SecretStr
    """Certificate and key, PEM."""
    api_key: SecretStr | None = None
    settings: SecretStr = SecretStr("")
    """As a file of settings."""
    held: HeldSecrets = HeldSecrets()

    def plain(self) -> bytes:
        """What is to be encrypted."""
        shown = self.model_dump(mode="json") | {
            name: None if secret is None else secret.get_secret_value()
            for name in ("master_key", "authority", "api_key", "settings")
            for secret in (getattr(self, name),)
        }
        return zlib.compress(to_json(shown), 9)


class KeyFile(BaseModel):
    """The derived key, as it lies in the data folder."""

    model_config = ConfigDict(frozen=True, hide_input_in_errors=True)

    salt: str
    key: SecretStr
    log2_n: int
    r: int
    p: int

    def parts(self) -> bytes:
        """For the process that encrypts."""
        shown = self.model_dump(mode="json") | {"key": self.key.get_secret_value()}
        return to_json(shown)


# --- the passphrase ---------------------------------------------------------------------------------------------


def new_passphrase() -> str:
    """Five groups of five letters."""
    body = "".join(secrets.choice(_LETTERS) for _ in range(_RANDOM_LETTERS))
    return _grouped(body + _check(body))


def canonical(passphrase: str) -> str:
    """The one spelling of what was typed. :class:`SealError` if that cannot be a passphrase that was printed here."""
    letters = passphrase.upper().translate(_SPELLINGS)
    body = letters[:-_CHECK_LETTERS]
    if len(body) != _RANDOM_LETTERS or not set(body) <= set(_LETTERS) or letters[-_CHECK_LETTERS:] != _check(body):
        raise SealError("that is no recovery passphrase: a letter is wrong, missing, or in another place")
    return _grouped(letters)


def _check(body: str) -> str:
    digest = hashlib.sha256(body.encode()).digest()
    return "".join(_LETTERS[byte % len(_LETTERS)] for byte in digest[:_CHECK_LETTERS])


def _grouped(letters: str) -> str:
    return "-".join(letters[start : start + _GROUP] for start in range(0, len(letters), _GROUP))


# --- the key in the data folder ---------------------------------------------------------------------------------


def make_key(folder: Path, *, replace: bool = False) -> str | None:
    """Make a passphrase and keep its key; ``None`` if there is one already, and it is not to be replaced.

    Takes a second. :class:`DataFolderError`.
    """
    if not replace and (folder / KEY_FILE).exists():
        return None
    passphrase = new_passphrase()
    keep_key(folder, passphrase)
    return passphrase


def keep_key(folder: Path, passphrase: str) -> None:
    """Keep what the identity is encrypted with from now on."""
    from appliance.sealing import derive_key  # heavy, and the appliance itself has no need of it

    found = derive_key(passphrase)
    kept = KeyFile(
        salt=b64encode(found.salt).decode(),
        key=SecretStr(b64encode(found.key).decode()),
        log2_n=found.cost.log2_n,
        r=found.cost.r,
        p=found.cost.p,
    )
    secret_files.write_file(folder / KEY_FILE, kept.parts() + b"\n", replace=True)


def read_key(folder: Path) -> KeyFile | None:
    """The key, if there is one. :class:`DataFolderError` if it is damaged."""
    path = folder / KEY_FILE
    try:
        return KeyFile.model_validate_json(path.read_bytes())
    except FileNotFoundError:
        return None
    except OSError as error:
        raise DataFolderError(f"{path}: {error.strerror}") from error
    except ValidationError:
        raise DataFolderError(f"{path} is damaged: make another (iiot-appliance recovery new --replace)") from None


# --- what Odoo has ----------------------------------------------------------------------------------------------


class Kept(BaseModel):
    """What Odoo took last."""

    digest: str
    at: str
    database_uuid: str


def read_kept(folder: Path) -> Kept | None:
    """What Odoo took last, as far as it is known here."""
    try:
        return Kept.model_validate_json((folder / KEPT_FILE).read_bytes())
    except (OSError, ValidationError):
        return None


def write_kept(folder: Path, kept: Kept | None) -> None:
    """Remember it; ``None``: Odoo keeps nothing any more. :class:`DataFolderError`."""
    if kept is None:
        (folder / KEPT_FILE).unlink(missing_ok=True)
        return
    secret_files.write_file(folder / KEPT_FILE, kept.model_dump_json().encode() + b"\n", replace=True)


def held_secrets(held: Mapping[str, Held] | Iterable[tuple[str, Held]]) -> HeldSecrets:
    """What is held, in its shortest form."""
    found = dict(held)
    counts: dict[Held, int] = {}
    for each in found.values():
        counts[each] = counts.get(each, 0) + 1
    usual = max(counts, key=counts.__getitem__, default=Held(1, 1))
    return HeldSecrets(usual=usual, others={name: each for name, each in found.items() if each != usual})


# --- becoming the gateway ---------------------------------------------------------------------------------------


def unseal(sealed: str, passphrase: str) -> Identity:
    """Read what Odoo has kept. :class:`SealError`."""
    from appliance import sealing

    plain = sealing.unseal(b64decode(sealed), passphrase)
    try:
        unpacker = zlib.decompressobj()
        text = unpacker.decompress(plain, _MOST_PLAIN_BYTES)
        return Identity.model_validate_json(text)
    except (zlib.error, ValidationError):
        raise SealError("it is from a newer version of the appliance: install that one first") from None


def become(identity: Identity, folder: Path, *, passphrase: str, aside: Path) -> None:
    """Put an identity into a data folder that nobody uses; what it replaces moves into ``aside``.

    The server's certificate is issued anew, for this box's names. :class:`DataFolderError`.
    """
    contents = {
        "gateway_uid": f"{identity.gateway_uid}\n".encode(),
        "master.key": b64decode(identity.master_key.get_secret_value()),
        "tls/authority.pem": identity.authority.get_secret_value().encode(),
        HELD_FILE: identity.held.model_dump_json().encode(),
    }
    if identity.api_key is not None:
        contents["api_key"] = f"{identity.api_key.get_secret_value()}\n".encode()
    if identity.settings.get_secret_value():
        contents[SETTINGS_FILE] = identity.settings.get_secret_value().encode()
    if len(contents["master.key"]) != secret_files.MASTER_KEY_BYTES:
        raise DataFolderError("the identity that Odoo keeps has no master key")
    secret_files.make_folder(folder / "tls")
    try:
        for name in (*contents, "tls/server.pem", KEY_FILE, KEPT_FILE):
            if (folder / name).exists():
                (aside / name).parent.mkdir(mode=0o700, parents=True, exist_ok=True)
                shutil.move(folder / name, aside / name)
    except OSError as error:
        raise DataFolderError(f"{aside}: {error.strerror}") from error
    for name, content in contents.items():
        secret_files.write_file(folder / name, content, replace=True)
    keep_key(folder, passphrase)


def read_inheritance(folder: Path) -> Inheritance | None:
    """Where a box has taken another's place, and has not heard of all devices yet. :class:`DataFolderError`."""
    path = folder / HELD_FILE
    try:
        return Inheritance(folder, HeldSecrets.model_validate_json(path.read_bytes()))
    except FileNotFoundError:
        return None
    except OSError as error:
        raise DataFolderError(f"{path}: {error.strerror}") from error
    except ValidationError:
        raise DataFolderError(f"{path} is damaged: remove it, and enrol the appliance with --recover again") from None


class Inheritance:
    """What a box knows that has taken another's place, until it has heard of all devices."""

    def __init__(self, folder: Path, secrets_held: HeldSecrets) -> None:
        self._folder = folder
        self._held = secrets_held

    def held(self, device_id: str) -> tuple[int, int]:
        """Which generations of its secret a device may have."""
        return self._held.of(device_id)

    def end(self) -> None:
        """All devices are here; touches the disk."""
        with suppress(OSError):  # the same devices again change nothing, and it is tried again at the next start
            (self._folder / HELD_FILE).unlink()


def seal_input(key: KeyFile, plain: bytes) -> bytes:
    """What the process that encrypts (``python -m appliance.sealing``) reads: the key in its first line."""
    return key.parts() + b"\n" + plain


def digest_of(plain: bytes, key: KeyFile) -> str:
    """Tells whether Odoo has this already."""
    return hashlib.sha256(json.dumps([key.salt]).encode() + plain).hexdigest()
