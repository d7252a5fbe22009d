from odoo import _, api, fields, models
from odoo.exceptions import ValidationError

from .iiot_device_config import HOST, PORT, TLS

DEFAULT_PORT = 8883


class ResConfigSettings(models.TransientModel):
    """What devices are told of the broker where their gateway has no address of its own; where machines stand.

    The parameters are texts, ``True`` and ``False`` among them; Odoo's own way for a checkbox would delete the row when
    it is unticked, and then nobody would know whether encryption is off or was never set.
    """

    _inherit = "res.config.settings"

    iiot_mqtt_host = fields.Char("MQTT Host")
    iiot_mqtt_port = fields.Integer("MQTT Port")
    iiot_mqtt_use_tls = fields.Boolean("MQTT over TLS")
    iiot_tz = fields.Selection(related="company_id.iiot_tz", readonly=False)

    @api.model
    def get_values(self):
        parameters = self.env["ir.config_parameter"].sudo()
        port = parameters.get_param(PORT) or ""
        return {
            **super().get_values(),
            "iiot_mqtt_host": parameters.get_param(HOST) or "",
            "iiot_mqtt_port": int(port) if port.isdecimal() else DEFAULT_PORT,
            "iiot_mqtt_use_tls": parameters.get_param(TLS, "True") != "False",
        }

    def set_values(self):
        done = super().set_values()
        if not 0 < self.iiot_mqtt_port < 65536:
            raise ValidationError(_("A port is a number from 1 to 65535."))
        parameters = self.env["ir.config_parameter"].sudo()
        host = (self.iiot_mqtt_host or "").strip()
        known = parameters.get_param(HOST) or ""
        if host != known:
            parameters.set_param(HOST, host)
        for key, value in ((PORT, str(self.iiot_mqtt_port)), (TLS, str(self.iiot_mqtt_use_tls))):
            if parameters.get_param(key) != value:
                parameters.set_param(key, value)
        return done
