import json

from odoo import api, fields, models


class ContractEffect(models.Model):
    """A message that took effect, as the inbox handed it on; and what tests do as administrators."""

    _name = "contract.effect"
    _description = "Effect of a Message"
    _order = "id"
    _log_access = False

    device = fields.Char(required=True, index=True)
    kind = fields.Char(required=True)
    payload = fields.Text(required=True)

    @api.model
    def effects(self, device):
        return [
            {"kind": effect.kind, "payload": json.loads(effect.payload)}
            for effect in self.search([("device", "=", device)])
        ]

    @api.model
    def new_device(self, name, config):
        """A device with a token that was not used; ``config`` as the stand-in takes it."""
        topics = {f"{topic}_topic_template": template for topic, template in config.get("topics", {}).items()}
        settings = json.dumps(config.get("settings", {}))
        profile = self.env["iiot.device.profile"].create({"name": name, "settings": settings, **topics})
        values = {"name": name, "device_id": name, "serial_number": f"SN-{name}", "profile_id": profile.id}
        device = self.env["iiot.device"].create(values)
        token = device._generate_token(config.get("token_valid_s", 3600))
        return {"device_id": name, "serial": device.serial_number, "token": token}

    @api.model
    def disable(self, name):
        self.env["iiot.device"].search([("device_id", "=", name)]).write({"is_active": False})
        return True

    @api.model
    def new_key(self, uid):
        """A key of a new gateway, which takes its uid from its first request."""
        gateway = self.env["iiot.gateway"].create({"name": uid or "new"})
        return self.env["iiot.gateway.key"].sudo()._make(gateway, "test")

    @api.model
    def new_code(self, uid):
        gateways = self.env["iiot.gateway"]
        gateway = gateways.search([("uid", "=", uid)]) if uid else gateways.create({"name": "by code"})
        return gateway._new_code()

    @api.model
    def assign(self, key, names):
        """The administrator puts devices at the gateway of a key."""
        gateway_id = self.env["iiot.gateway.key"].sudo()._owner(key)
        self.env["iiot.device"].sudo().search([("device_id", "in", names)]).write({"gateway_id": gateway_id})
        return True


class IiotInbox(models.AbstractModel):
    _inherit = "iiot.inbox"

    def _hand_over(self, gateway, messages):
        super()._hand_over(gateway, messages)
        self.env["contract.effect"].sudo().create(
            [{"device": each.device_name, "kind": each.kind, "payload": each.payload_json} for each in messages]
        )
