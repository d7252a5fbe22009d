"""What a batch of readings needs to know of its devices: one query for all of them."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

from ..lib.domain import DeviceFacts

READ = ("device_id", "serial_number", "name", "company_id", "profile_id", "state_id", "state", "business_ref")


@dataclass(frozen=True)
class TakenDevice:
    """A device as it was when its readings came."""

    facts: DeviceFacts
    profile_id: int
    company_id: int
    state_id: int
    lifecycle: str
    gateway_id: int

    @property
    def id(self) -> int:
        return self.facts.id


def load_devices(env: Any, ids: Collection[int]) -> dict[int, TakenDevice]:
    """The devices with these ids that exist, in the order of their ids."""
    env["iiot.device"].flush_model([*READ, "gateway_id"])
    env.cr.execute(
        """SELECT d.id, d.device_id, d.serial_number, d.name, p.name, d.company_id, d.business_ref,
                  d.profile_id, d.state_id, d.state, coalesce(d.gateway_id, 0)
           FROM iiot_device d JOIN iiot_device_profile p ON p.id = d.profile_id
           WHERE d.id = ANY(%s) ORDER BY d.id""",
        (sorted(ids),),
    )
    devices = {}
    for (
        id_,
        device_id,
        serial,
        name,
        profile,
        company,
        reference,
        profile_id,
        state_id,
        state,
        gateway,
    ) in env.cr.fetchall():
        model, _, number = (reference or "").partition(",")
        facts = DeviceFacts(
            id=id_,
            device_id=device_id,
            serial_number=serial,
            name=name,
            profile=profile,
            company_id=company,
            business_model=model,
            business_id=int(number) if number.isdigit() else 0,
        )
        devices[id_] = TakenDevice(facts, profile_id, company, state_id, state, gateway)
    return devices
