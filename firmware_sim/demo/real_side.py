"""A real Odoo with the add-on as the Odoo of a demo, and the factory that the demo makes in it."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from typing import Any

from firmware_sim.demo.sides import Arrived, DemoError
from firmware_sim.image import make
from firmware_sim.office import Office

EQUIPMENT = "maintenance.equipment"
SHOWN: tuple[tuple[str, str, str, str, dict[str, float]], ...] = (
    ("temperature", "x_iiot_temperature", "Temperature (°C)", "float", {"rounding": 0.1}),
    ("pressure", "x_iiot_pressure", "Pressure (bar)", "float", {"rounding": 0.01}),
    ("strokes", "x_iiot_strokes", "Strokes", "integer", {}),
    ("state", "x_iiot_state", "State", "char", {}),
)
"""Values of a press, and the fields of its machine that rules write them into."""
IMAGE_BYTES = 300_000


class RealSide:
    """``login`` is the line that ``python -m tests.odoo.run --json`` prints, ``office`` somebody who is logged in."""

    def __init__(self, office: Office, login: dict[str, str]) -> None:
        self._office = office
        self._gateway = 0
        self._profile = 0
        self._devices: dict[str, int] = {}
        self.introduction = (
            f"Odoo {login['revision']}: open {login['url']}/ (login {login['login']}, password {login['password']})\n"
            "              Industrial IoT has devices and commands, Maintenance the machines that readings write into"
        )

    async def make_devices(
        self, prefix: str, *, count: int, interval_s: float
    ) -> tuple[list[dict[str, str]], dict[str, str]]:
        await self._make_factory(interval_s)
        made = [await self._make_press(f"{prefix}-{number:03d}") for number in range(1, count + 1)]
        return made, await self._make_press(f"{prefix}-own", serial="SN-1001")

    async def _make_factory(self, interval_s: float) -> None:
        """A gateway, a profile, fields of machines, and rules that write into them."""
        office = self._office
        self._gateway = await office.create("iiot.gateway", name="Hall 1")
        self._profile = await office.create(
            "iiot.device.profile",
            name="Press",
            settings=json.dumps({"telemetry_interval_s": interval_s}),
            metrics="temperature\npressure",
        )
        for key, field, label, ttype, more in SHOWN:
            await office.new_field(EQUIPMENT, field, label, ttype)
            await office.new_rule(
                profile=self._profile, path=f"$.{key}", model=EQUIPMENT, field=field, name=f"{label} of a press", **more
            )
        await self._show_fields()

    async def _show_fields(self) -> None:
        fields = "".join(f'<field name="{field}"/>' for _key, field, _label, _type, _more in SHOWN)
        for view, place in (("hr_equipment_view_form", "serial_no"), ("hr_equipment_view_tree", "name")):
            (named,) = await self._office.find(
                "ir.model.data", [("module", "=", "maintenance"), ("name", "=", view)], "res_id"
            )
            await self._office.create(
                "ir.ui.view",
                name=f"iiot demo {view}",
                model=EQUIPMENT,
                inherit_id=named["res_id"],
                arch=f'<xpath expr="//field[@name=\'{place}\']" position="after">{fields}</xpath>',
            )

    async def _make_press(self, name: str, *, serial: str = "") -> dict[str, str]:
        serial = serial or f"SN-{name}"
        machine = await self._office.create(EQUIPMENT, name=f"Press {name.rpartition('-')[2]}", serial_no=serial)
        made = await self._office.new_device(
            profile=self._profile, device_id=name, serial=serial, business_ref=f"{EQUIPMENT},{machine}"
        )
        self._devices[name] = made["id"]
        return {"device_id": name, "serial": serial, "token": made["token"]}

    async def code(self) -> str | None:
        return await self._office.new_code(self._gateway)

    async def meet(self, api: dict[str, Any]) -> None:
        """It was told so when the appliance was enrolled."""

    async def inject(self, fault: str) -> None:
        raise DemoError(f"only the stand-in can do this wrong: {fault}")

    async def arrived(self) -> Arrived:
        readings = await self._office.call("iiot.telemetry", "search_count", [])
        return Arrived(readings, await self._office.call("iiot.command", "search_count", [("state", "=", "done")]))

    async def send_command(self, device: str, action: str) -> str:
        return str(await self._office.send_command(self._devices[device], action, {"from": "the demo"}))

    async def command_states(self) -> dict[str, str]:
        found = await self._office.find("iiot.command", [], "state")
        return {str(command["id"]): command["state"] for command in found}

    async def send_update(self, device: str, version: str) -> str:
        file = await self._office.new_firmware(version, make(version, IMAGE_BYTES), profile_id=self._profile)
        return str(await self._office.start_update(self._devices[device], file))

    async def update(self, update: str) -> tuple[str, str]:
        found = await self._office.read("iiot.update", int(update), "state", "error", "problem")
        return found["state"], str(found["error"] or found["problem"] or "")

    def readings(self) -> AsyncIterator[tuple[str, str]]:
        return self._office.readings()

    async def is_complete(self) -> bool:
        """Its history is kept for months."""
        return True
