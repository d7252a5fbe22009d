from __future__ import annotations

from typing import Any

from odoo import api, models

HOST, PORT, TLS = "iiot.mqtt_host", "iiot.mqtt_port", "iiot.mqtt_use_tls"
PARAMETERS = (HOST, PORT, TLS)
ADDRESS_FIELDS = ("mqtt_host", "mqtt_port", "mqtt_use_tls")


class IiotDevice(models.Model):
    _inherit = "iiot.device"

    def _wire_config(self) -> dict[str, Any]:
        """What the contract calls a device's configuration: from its profile, itself, its gateway or the parameters."""
        self.ensure_one()
        return {
            "device_id": self.device_id,
            "config_version": self.config_version,
            "secret_version": self.secret_version,
            **self.profile_id._wire_part(),
            "mqtt": self._address(),
        }

    def _address(self, gateway=None) -> dict[str, Any]:
        """The broker address that the device is to be told; what is ``None`` the appliance fills in by itself.

        :param gateway: the one that is to pair it, where that is not known from the device

        Port and encryption of the parameters belong to the host of the parameters: without any host from here they
        are not told, because the appliance knows where it listens.
        """
        gateway = gateway or self.gateway_id
        parameters = self.env["ir.config_parameter"].sudo()
        host = gateway.mqtt_host or parameters.get_param(HOST) or None
        port = gateway.mqtt_port or _port(parameters.get_param(PORT) if host else None)
        tls = gateway.mqtt_use_tls or (parameters.get_param(TLS) if host else None)
        return {"host": host, "port": port or None, "tls": None if tls in (None, False, "") else tls == "True"}

    def _count_config_up(self):
        """These devices are to be told something else from now on. One statement, however many they are."""
        if not self:
            return
        self.flush_recordset(["config_version"])
        self.env.cr.execute(
            "UPDATE iiot_device SET config_version = config_version + 1 WHERE id IN %s", (tuple(sorted(self.ids)),)
        )
        self.invalidate_recordset(["config_version"])
        self._note_change()

    @api.model
    def _count_all_up(self):
        """All devices that an appliance may know; the others are told when they are paired."""
        self.sudo().search(["|", ("paired_at", "!=", False), ("revoked_at", "!=", False)])._count_config_up()


class IiotGateway(models.Model):
    _inherit = "iiot.gateway"

    def write(self, vals):
        before = {gateway: gateway._told_address() for gateway in self} if vals.keys() & set(ADDRESS_FIELDS) else {}
        done = super().write(vals)
        changed = self.filtered(lambda gateway: gateway in before and gateway._told_address() != before[gateway])
        changed.sudo().device_ids._count_config_up()
        return done

    def _told_address(self) -> tuple[Any, ...]:
        return tuple(self[field] for field in ADDRESS_FIELDS)


class IrConfigParameter(models.Model):
    """A change of the add-on's parameters, by whatever way, reaches the devices that are told them."""

    _inherit = "ir.config_parameter"

    @api.model_create_multi
    def create(self, vals_list):
        parameters = super().create(vals_list)
        parameters._tell_devices()
        return parameters

    def write(self, vals):
        told = self._tells_devices()
        values = {parameter: parameter.value for parameter in told}
        done = super().write(vals)
        now = self._tells_devices()
        if told != now or any(parameter.value != values[parameter] for parameter in now):
            (told | now)._tell_devices(known=True)
        return done

    def unlink(self):
        told = bool(self._tells_devices())
        done = super().unlink()
        if told:
            self.env["iiot.device"]._count_all_up()
        return done

    def _tells_devices(self):
        return self.filtered(lambda parameter: parameter.key in PARAMETERS)

    def _tell_devices(self, *, known: bool = False):
        if known or self._tells_devices():
            self.env["iiot.device"]._count_all_up()


def _port(text: str | bool | None) -> int | None:
    try:
        port = int(text or 0)
    except ValueError:
        return None
    return port if 0 < port < 65536 else None
