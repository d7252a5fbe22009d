from odoo import api, models


class IrRule(models.Model):
    """Record rules may name the gateway that a request comes from: ``iiot_gateway_id``."""

    _inherit = "ir.rule"

    @api.model
    def _eval_context(self):
        return {**super()._eval_context(), "iiot_gateway_id": self.env.context.get("iiot_gateway_id") or 0}

    def _compute_domain_keys(self):
        return [*super()._compute_domain_keys(), "iiot_gateway_id"]
