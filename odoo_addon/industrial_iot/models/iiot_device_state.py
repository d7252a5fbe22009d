from odoo import fields, models


class IiotDeviceState(models.Model):
    """What machines write of a device, apart from what people edit: the two never get into each other's way."""

    _name = "iiot.device.state"
    _description = "IIoT Device State"
    _log_access = False

    connection_status = fields.Selection(
        [("online", "Online"), ("offline", "Offline"), ("unknown", "Unknown")],
        default="unknown",
        required=True,
        readonly=True,
        index=True,
        help="Unknown: never seen, or no contact with its gateway.",
    )
    reported_status = fields.Selection(
        [("online", "Online"), ("offline", "Offline"), ("unknown", "Unknown")],
        default="unknown",
        required=True,
        readonly=True,
        help="What the gateway reported last; the connection status is unknown while there is no contact with it.",
    )
    connection_since = fields.Datetime(
        "Connected or Offline Since", help="When the present connection status began.", readonly=True
    )
    offline_code = fields.Char("Reason Code", help="Why it is offline, as a code.", readonly=True)
    offline_reason = fields.Char("Why Offline", readonly=True)
    address = fields.Char("Network Address", readonly=True)
    is_contested = fields.Boolean(
        "Used by Two Devices",
        help="Two clients seem to use the credentials of this device: they keep taking over the connection.",
        readonly=True,
    )
    reconnects = fields.Integer(help="Connections since the device was paired, not counting the first.", readonly=True)
    takeovers = fields.Integer(help="Connections that ended an older one of the same device.", readonly=True)
    presence_at = fields.Datetime(help="Time of the newest message on its connection.", readonly=True)
    last_seen = fields.Datetime(
        index=True, help="Time of the last packet of any kind, as reported by the gateway.", readonly=True
    )
    last_telemetry = fields.Datetime(index=True, help="Time of the newest reading.", readonly=True)
    last_values = fields.Json(help="The newest reading, as the device sent it.", readonly=True)
    is_inactive = fields.Boolean(
        "Inactive", index=True, help="No data for longer than its configuration template allows.", readonly=True
    )
    firmware_version = fields.Char(help="The version that runs, as far as the device has said.", readonly=True)
    hardware = fields.Char(help="What the device reported about itself when it was paired.", readonly=True)
