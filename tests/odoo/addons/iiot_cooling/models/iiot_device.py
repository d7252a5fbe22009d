from odoo import models


class IiotDevice(models.Model):
    _inherit = "iiot.device"

    def process_telemetry_data(self, telemetry_data):
        super().process_telemetry_data(telemetry_data)
        for key, value in telemetry_data.items():
            if key == "temperature" and value > 80:
                self.send_command("activate_cooling", target_temp=70)
            elif key == "vibration" and value > 5.0:
                self.send_command("enter_inspection_mode")
