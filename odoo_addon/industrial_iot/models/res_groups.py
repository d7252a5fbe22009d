from odoo import api, models


class ResGroups(models.Model):
    _inherit = "res.groups"

    @api.model
    def _iiot_place(self):
        """Put the add-on's groups under their category, and give the gateways their user.

        The fields for both have other names in each series: ``category_id`` or a privilege, ``groups_id`` or
        ``group_ids``. Called by the data files with each installation and update; a repeat changes nothing.
        """
        groups = self.env.ref("industrial_iot.group_iiot_user") | self.env.ref("industrial_iot.group_iiot_admin")
        category = self.env.ref("industrial_iot.module_category_iiot")
        if "privilege_id" in self._fields:
            # with each update: what is not named in one is removed at its end
            values = {"name": "Industrial IoT", "category_id": category.id}
            groups.privilege_id = self.env["res.groups.privilege"]._load_records(
                [{"xml_id": "industrial_iot.privilege_iiot", "values": values}], update=True
            )
        else:
            groups.category_id = category
        users = self.env["res.users"]
        gateway_groups = self.env.ref("industrial_iot.group_iiot_gateway")
        field = "group_ids" if "group_ids" in users._fields else "groups_id"
        user = self.env.ref("industrial_iot.user_gateway", raise_if_not_found=False)
        if not user:
            values = {"name": "IIoT Gateways", "login": "__iiot_gateways__", field: [(6, 0, gateway_groups.ids)]}
            users.with_context(no_reset_password=True)._load_records(
                [{"xml_id": "industrial_iot.user_gateway", "values": values, "noupdate": True}]
            )
