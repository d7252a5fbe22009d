"""Reading what Odoo answers to ``sync``: an item that makes no sense is told apart and does not stop the rest."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pydantic import TypeAdapter, ValidationError
from pydantic_core import from_json

from appliance.contract.command import CommandId
from appliance.contract.device import DeviceId
from appliance.contract.sync import MOST_WORK, DeviceChange, KnownEpoch, PendingCommand, PendingUpdate, SyncAnswer

TOO_MANY = "*"
"""``item_id`` of the flaw of a list that is longer than allowed."""


@dataclass(frozen=True, slots=True)
class Flaw:
    """An item of an answer that cannot be used, and why. ``item_id`` and ``device_id`` as far as they can be read."""

    list_name: str
    reason: str
    item_id: str | None = None
    device_id: str | None = None

    @property
    def text(self) -> str:
        """For a log line or a page."""
        named = f" {self.item_id}" if self.item_id else f" of {self.device_id}" if self.device_id else ""
        return f"an item{named} of {self.list_name} cannot be used: {self.reason}"


def read_answer(content: bytes) -> tuple[SyncAnswer, list[Flaw]]:
    """Odoo's answer to ``sync``, without the items that make no sense; these are told apart.

    ``ValueError`` where it is no answer at all. Beyond ``MOST_WORK`` items of a kind the rest is passed over: what is
    not done comes again.
    """
    value = from_json(content, allow_inf_nan=False)
    if not isinstance(value, dict):
        raise ValueError("the answer is no object")
    flaws: list[Flaw] = []
    usable: dict[str, Any] = {"database_uuid": value.get("database_uuid")}
    for name, (reader, id_field) in _ITEMS.items():
        usable[name] = _usable(value.get(name), name, reader, id_field, flaws)
    for name in _HELPFUL:
        # Odoo writes false for what is not set
        if value.get(name) is None or value[name] is False:
            continue
        try:
            SyncAnswer.model_validate({"database_uuid": "-", name: value[name]})
            usable[name] = value[name]
        except ValidationError as error:
            flaws.append(Flaw(name, _why(error)))
    # a cursor stands for changes that must all have been read
    if any(flaw.list_name in ("devices", "revoked") and flaw.item_id == TOO_MANY for flaw in flaws):
        usable.pop("cursor", None)
    return SyncAnswer.model_validate(usable), flaws


_ITEMS: Mapping[str, tuple[TypeAdapter[Any], str]] = {
    "known": (TypeAdapter(KnownEpoch), "epoch"),
    "commands": (TypeAdapter(PendingCommand), "command_id"),
    "cancel_commands": (TypeAdapter(CommandId), ""),
    "updates": (TypeAdapter(PendingUpdate), "update_id"),
    "devices": (TypeAdapter(DeviceChange), "device_id"),
    "revoked": (TypeAdapter(DeviceId), ""),
}
"""Each list of an answer: how an item is read, and the field that holds its id."""
_HELPFUL = ("admission", "time", "cursor", "more", "limits", "interval_s")
"""Fields without which the rest can be used."""


def _usable(items: object, name: str, reader: TypeAdapter[Any], id_field: str, flaws: list[Flaw]) -> list[Any]:
    if items is None or items is False:
        return []
    if not isinstance(items, list):
        flaws.append(Flaw(name, "it is no list"))
        return []
    if len(items) > MOST_WORK:
        flaws.append(Flaw(name, f"there are more than {MOST_WORK}", TOO_MANY))
    usable: list[Any] = []
    for item in items[:MOST_WORK]:
        try:
            usable.append(reader.validate_python(item))
        except ValidationError as error:
            flaws.append(Flaw(name, _why(error), _short(item, id_field), _short(item, "device_id")))
    return usable


def _short(item: object, field: str) -> str | None:
    value = (item.get(field) if isinstance(item, dict) else None) if field else item
    return value[:64] if isinstance(value, str) and value.isprintable() else None


def _why(error: ValidationError) -> str:
    detail = error.errors(include_url=False, include_input=False, include_context=False)[0]
    place = ".".join(str(step)[:40] for step in detail["loc"])
    return f"{place}: {detail['msg']}"[:200]
