"""What an operator does to a paired device: give it a new secret, end its pairing; and what the device knows so far."""

from __future__ import annotations

from typing import Any

from pydantic_core import to_json
from starlette.requests import Request
from starlette.responses import Response

from appliance.services.config_push import ConfigPush
from appliance.services.device_changes import DeviceService
from appliance.store.devices import Device
from appliance.web.answers import DeviceRemoved, RotatedAnswer
from appliance.web.bodies import json_response
from appliance.web.routes import describes

_UNKNOWN = {404: "no such device is paired here"}


class DeviceRoutes:
    """``/api/v1/device/{device_id}/…`` as far as it changes something."""

    def __init__(self, devices: DeviceService) -> None:
        self._devices = devices

    @describes(RotatedAnswer, status=202, problems=_UNKNOWN)
    async def rotate(self, request: Request) -> Response:
        """202: the device is told its new secret as soon as it can be; the present one works until it has used that."""
        device = await self._devices.rotate(request.path_params["device_id"])
        return json_response(to_json({"device_id": device.device_id, "secret": secret_status(device)}), 202)

    @describes(DeviceRemoved, problems=_UNKNOWN)
    async def remove(self, request: Request) -> Response:
        """The pairing has ended, on disk; what the device has sent goes on to Odoo."""
        device_id = request.path_params["device_id"]
        await self._devices.remove(device_id)
        return json_response(to_json({"device_id": device_id, "removed": True}))


def secret_status(device: Device) -> dict[str, Any]:
    """Which secrets of a device are valid, by their numbers."""
    return {
        "generation": device.generation,
        "used_generation": device.login_generation or None,
        "valid_from": device.valid_from,
        "pending": device.secret_pending,
    }


def configuration_status(device: Device, push: ConfigPush, devices: DeviceService) -> dict[str, Any]:
    """Which configuration a device should have, was told, and has; and why it has not got the newest."""
    return {
        "version": device.config_version,
        "told_version": device.told.version if device.told else None,
        "taken_version": device.taken.version if device.taken else None,
        "current": push.is_current(device),
        "earlier_topics": len(device.earlier),
        "refused": devices.refusal(device.device_id),
        "problem": push.problem(device.device_id),
    }
