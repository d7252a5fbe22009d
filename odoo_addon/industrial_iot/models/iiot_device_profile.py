from odoo import fields, models

from ..lib.topics import DEFAULTS


class IiotDeviceProfile(models.Model):
    """How devices of one kind are spoken to: topics, command template, settings, limits."""

    _name = "iiot.device.profile"
    _description = "IIoT Device Profile"
    _order = "name, id"

    name = fields.Char(required=True)
    active = fields.Boolean(default=True)
    company_id = fields.Many2one("res.company", index=True, help="Empty: for all companies.")
    device_ids = fields.One2many("iiot.device", "profile_id", "Devices")

    telemetry_topic_template = fields.Char(required=True, default=DEFAULTS["telemetry"])
    command_topic_template = fields.Char(required=True, default=DEFAULTS["command"])
    command_response_topic_template = fields.Char(required=True, default=DEFAULTS["command_response"])
    ota_notify_topic_template = fields.Char(required=True, default=DEFAULTS["ota_notify"])
    ota_status_topic_template = fields.Char(required=True, default=DEFAULTS["ota_status"])
    local_publish = fields.Text(help="Topic filters, one a line, that machines may publish to each other.")
    local_subscribe = fields.Text(help="Topic filters, one a line, that machines may subscribe to.")

    command_template = fields.Text(required=True, default='{"action": "{{ action }}", "params": {{ params | tojson }}}')
    command_is_json = fields.Boolean("Commands Are JSON", default=True)
    command_add_id = fields.Boolean("Add Command ID", default=True)
    command_expires_in_s = fields.Integer("Commands Expire After (s)", default=60, required=True)
    command_response_limit_s = fields.Integer("Answer Expected Within (s)", default=60, required=True)
    settings = fields.Text(
        "Device Settings", default="{}", help="A JSON object that devices get with their configuration."
    )
    max_packet_bytes = fields.Integer(
        "Largest Packet (bytes)", help="The largest MQTT packet that the device takes. 0: no limit."
    )

    inactivity_limit_min = fields.Integer("Inactivity Limit (min)", default=0, help="0: none.")
    keep_history = fields.Boolean(default=True, help="Keep every reading, for lists, charts and trying rules.")
    history_days = fields.Integer("Keep History (days)", default=90, help="0: for ever.")
    metrics = fields.Text(
        help="Names of values in the readings, one a line, that get charts: a key such as temperature, or a JSONPath."
    )
