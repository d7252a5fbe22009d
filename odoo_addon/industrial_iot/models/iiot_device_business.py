"""The record that a device is bound to, in its form: which kinds are offered, and what of it is shown to whom.

Any other kind can be bound from Python.
"""

from odoo import _, api, models, tools
from odoo.exceptions import AccessError

FIRST = ("maintenance.equipment", "mrp.workcenter")
ALSO = ("res.partner",)
"""Without the application that has a menu for it, too: a place at a customer."""
OF_SETTINGS = frozenset(("Settings", "Configuration"))
"""Menus below these open lists that are set up once, such as countries and banks."""


class IiotDevice(models.Model):
    _inherit = "iiot.device"

    @api.model
    def fields_get(self, allfields=None, attributes=None):
        """Of business records the kinds that people work with: machines first, then what a menu opens."""
        described = super().fields_get(allfields, attributes)
        known = described.get("business_ref", {}).get("selection")
        if known:
            offered = {*FIRST, *ALSO, *self._models_of_menus(), *self._models_bound()}
            kinds = [kind for kind in known if kind[0] in offered]
            kinds.sort(key=lambda kind: (kind[0] not in FIRST, kind[1].casefold()))
            described["business_ref"]["selection"] = kinds
        return described

    def web_read(self, specification):
        """A business record that somebody may not read keeps nobody from the device: Odoo 17 would refuse both."""
        try:
            return super().web_read(specification)
        except AccessError:
            if not specification.get("business_ref"):
                raise
        rows = super().web_read({**specification, "business_ref": {}})
        for device, row in zip(self, rows, strict=True):
            record = device.business_ref
            if record:
                name = device.business_name or _("Not visible to you")
                row["business_ref"] = {"id": {"id": record.id, "model": record._name}, "display_name": name}
        return rows

    @api.model
    @tools.ormcache()
    def _models_of_menus(self) -> frozenset[str]:
        """Models whose records somebody opens from a menu that is none of settings."""
        menus = self.env["ir.ui.menu"].sudo().with_context(lang="en_US", **{"ir.ui.menu.full_list": True})
        opened = menus.search([("action", "=like", "ir.actions.act_window,%")])
        return frozenset(
            menu.action.res_model
            for menu in opened
            if menu.action.exists() and not OF_SETTINGS & set(menu.complete_name.split("/"))
        )

    @api.model
    def _models_bound(self) -> list[str]:
        """Those that devices are bound to already."""
        self.env.cr.execute(
            "SELECT DISTINCT split_part(business_ref, ',', 1) FROM iiot_device WHERE business_ref IS NOT NULL"
        )
        return [model for (model,) in self.env.cr.fetchall()]
