from odoo import api, fields, models


class MaintenanceEquipment(models.Model):
    """The fields that the documents' examples use, and the example that extends ``create``."""

    _inherit = "maintenance.equipment"

    state = fields.Selection([("running", "Running"), ("maintenance", "In Maintenance")], default="running")
    field_name = fields.Float()
    threshold_value = fields.Float()

    # in the documents it takes the values of one record; since 18 Odoo calls it with those of several
    @api.model_create_multi
    def create(self, vals_list):
        records = super().create(vals_list)
        for record, vals in zip(records, vals_list, strict=True):
            if "state" in vals and vals["state"] == "maintenance":
                # Find associated IIoT device
                iiot_device = self.env["iiot.device"].search(
                    [("business_ref", "=", f"maintenance.equipment,{record.id}")]
                )
                if iiot_device:
                    iiot_device.send_command("enter_maintenance_mode", equipment_id=record.id)
        return records
