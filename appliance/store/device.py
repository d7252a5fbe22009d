"""A paired device, and what becomes of it: what a note, a change or a rotation makes of its record, nothing stored."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace
from typing import NamedTuple

from appliance.contract.odoo import DeviceConfig
from appliance.contract.topics import DeviceTopics
from appliance.store.device_rows import VALID_GENERATIONS

SWITCHED_OFF = "it is switched off in Odoo"
EARLIER_TOPICS_KEPT = 3
"""Sets of topics that a device may use besides its present one: the one it is known to have, and the newest."""


class Told(NamedTuple):
    """A configuration that a device was told, or has taken."""

    version: int
    """``config_version``."""
    generation: int
    """The secret that the device has with it: the one it was told, or the one it had shown."""
    digest: bytes
    """Of what was told, without secret and time (:meth:`appliance.services.configuration.Configuration.digest`)."""
    topics: bytes = b""
    """Which topics that were: :func:`topics_digest`."""
    asked: bool = False
    """It went out where no PUBACK tells that it has arrived; a login with its secret is to prove that."""


def topics_digest(topics: DeviceTopics) -> bytes:
    """Eight bytes that tell one set of topics from another."""
    return hashlib.blake2b("\0".join(topics.as_dict().values()).encode(), digest_size=8).digest()


@dataclass(frozen=True, slots=True, kw_only=True)
class Device:
    """A paired device. ``enabled`` says whether it may connect now; if not, ``disabled_reason`` says why."""

    device_id: str
    serial: str
    generation: int
    """Of its newest secret; counted up with each pairing and rotation, never used twice for one device id."""
    valid_from: int
    """The oldest generation whose secret still opens the door."""
    enabled: bool
    config: DeviceConfig
    topics: DeviceTopics
    paired_at_ms: int
    firmware_version: str | None = None
    hardware: str | None = None
    first_login_at_ms: int | None = None
    login_generation: int = 0
    """The newest generation that has logged in; 0 if none has."""
    disabled_reason: str | None = None
    paired_generation: int = 0
    """The newest generation that was given for a token. Who shows an older one is not told a newer secret: a new token
    may have been given out because somebody else has the old secret."""
    secret_version: int = 0
    """Odoo's count of wishes for a new secret, as far as they were carried out."""
    told: Told | None = None
    """What it was told last."""
    taken: Told | None = None
    """What it is known to have."""
    earlier: tuple[DeviceTopics, ...] = ()
    """Topics that it had before and may still use, oldest first."""

    @property
    def config_version(self) -> int:
        """Odoo's number of this configuration."""
        return self.config.config_version

    @property
    def previous_valid(self) -> bool:
        """Whether an earlier secret than the newest still opens the door."""
        return self.valid_from < self.generation

    @property
    def troubled(self) -> bool:
        """Whether it cannot be served as its row stands (its topics are another's, say): no switch mends that."""
        return self.disabled_reason not in (None, SWITCHED_OFF)

    @property
    def secret_pending(self) -> bool:
        """Whether nobody has logged in with the newest secret yet."""
        return self.login_generation < self.generation

    def accepts(self, generation: int) -> bool:
        """Whether the secret of this generation opens the door (if the device is enabled)."""
        return self.valid_from <= generation <= self.generation


@dataclass(frozen=True, slots=True)
class DeviceNote:
    """What a device showed of itself: the generation it logged in with, its firmware, its hardware; and what it was
    told and has taken."""

    generation: int | None = None
    firmware_version: str | None = None
    hardware: str | None = None
    told: Told | None = None
    taken: Told | None = None

    def then(self, later: DeviceNote) -> DeviceNote:
        """Both in one."""
        return DeviceNote(
            generation=max(later.generation or 0, self.generation or 0) or None,
            firmware_version=later.firmware_version or self.firmware_version,
            hardware=later.hardware or self.hardware,
            told=later.told or self.told,
            taken=later.taken or self.taken,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceUpdate:
    """A change of a paired device; what is ``None`` stays as it is."""

    device_id: str
    serial: str | None = None
    """To be refused if the device has another one."""
    config: DeviceConfig | None = None
    enabled: bool | None = None
    secret_version: int | None = None
    """Higher than the one of the device: it needs a new secret."""
    rotate: bool = False
    """It needs a new secret, whatever Odoo counts."""


def noted(device: Device, note: DeviceNote, *, now_ms: int) -> Device:
    """With what it showed; a login ends the generations before the one it used. What is not valid is passed over."""
    new = replace(
        device,
        firmware_version=note.firmware_version or device.firmware_version,
        hardware=note.hardware or device.hardware,
        # what was told to a connection whose secret has ended was told to somebody else
        told=note.told if note.told is not None and device.accepts(note.told.generation) else device.told,
        taken=note.taken if note.taken is not None and device.accepts(note.taken.generation) else device.taken,
    )
    if note.generation is not None and device.accepts(note.generation):
        new = replace(
            new,
            valid_from=note.generation,
            login_generation=max(note.generation, device.login_generation),
            first_login_at_ms=device.first_login_at_ms or now_ms,
        )
    return new


def rotated(device: Device) -> Device:
    """With a new secret; the earlier ones stay valid until the device has logged in with it.

    A secret that a rotation has made and that went to nobody serves for the next wish too, and so does the newest
    where as many are valid as may be: rotating again and again must not lock out a device that is away.
    """
    was_shown = max(device.login_generation, device.paired_generation, device.told.generation if device.told else 0)
    if device.generation > was_shown or device.generation - device.valid_from + 1 >= VALID_GENERATIONS:
        return device
    return replace(device, generation=device.generation + 1)


def with_topics(device: Device, topics: DeviceTopics) -> Device:
    """With other topics; those that it may have by now stay usable beside them."""
    if topics == device.topics:
        return device
    present = topics_digest(device.topics)
    left: tuple[DeviceTopics, ...] = device.earlier
    if device.taken is not None and device.taken.topics == present:
        # the first are those that the device is known to have: they stay, however often its topics change
        left = (device.topics, *device.earlier)
    elif device.told is None or device.told.topics == present:
        # what it was never told it cannot have
        left = (*device.earlier, device.topics)
    unique = list(dict.fromkeys(each for each in left if each != topics))
    earlier = unique[:1] + unique[1:][-(EARLIER_TOPICS_KEPT - 1) :]
    return replace(device, topics=topics, earlier=tuple(earlier))
