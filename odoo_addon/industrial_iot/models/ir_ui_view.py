from odoo import api, models, release

CHATTER = """<div class="oe_chatter"><field name="message_follower_ids"/><field name="activity_ids"/>
<field name="message_ids"/></div>"""


class IrUiView(models.Model):
    """This add-on's views are written for the newer series; 17 has other names for two of their elements."""

    _inherit = "ir.ui.view"

    if release.version_info[:2] < (18, 0):

        @api.model_create_multi
        def create(self, vals_list):
            return super().create([self._iiot_older(values) for values in vals_list])

        def write(self, vals):
            return super().write(self._iiot_older(vals))

        def _iiot_older(self, values):
            if self.env.context.get("install_module") != "industrial_iot":
                return values
            changed = {}
            for name in {"arch", "arch_base", "arch_db"} & values.keys():
                arch = values[name] or ""
                for tag in ("<list", "</list"):
                    arch = arch.replace(tag, tag.replace("list", "tree"))
                changed[name] = arch.replace("<chatter/>", CHATTER)
            return {**values, **changed}
