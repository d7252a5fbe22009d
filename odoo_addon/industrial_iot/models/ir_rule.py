from odoo import api, models

NO_GATEWAY = -1


class IrRule(models.Model):
    """Record rules may name the gateway that a request comes from: ``iiot_gateway_id``.

    Only for the gateways' user: anybody else may write what they like into their context.
    """

    _inherit = "ir.rule"

    @api.model
    def _eval_context(self):
        gateway_id = self.env.context.get("iiot_gateway_id")
        if not isinstance(gateway_id, int) or not self.env.user.has_group("industrial_iot.group_iiot_gateway"):
            gateway_id = NO_GATEWAY
        return {**super()._eval_context(), "iiot_gateway_id": gateway_id}

    def _compute_domain_keys(self):
        return [*super()._compute_domain_keys(), "iiot_gateway_id"]
