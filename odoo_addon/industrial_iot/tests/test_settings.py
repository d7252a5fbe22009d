from odoo.exceptions import ValidationError
from odoo.tests import Form

from .device_case import DeviceCase

KEYS = ("iiot.mqtt_host", "iiot.mqtt_port", "iiot.mqtt_use_tls")


class TestSettings(DeviceCase):
    def parameters(self):
        return [self.env["ir.config_parameter"].get_param(key) for key in KEYS]

    def save(self, **values):
        settings = self.env["res.config.settings"].create(values)
        settings.execute()

    def test_a_new_database_tells_nothing_and_shows_the_defaults(self):
        self.assertEqual(self.parameters(), [False] * 3)
        shown = self.env["res.config.settings"].create({})
        self.assertEqual((shown.iiot_mqtt_host, shown.iiot_mqtt_port, shown.iiot_mqtt_use_tls), ("", 8883, True))

    def test_they_are_kept_as_texts_also_when_unticked(self):
        self.save(iiot_mqtt_host=" mqtt.factory.lan ", iiot_mqtt_port=1883, iiot_mqtt_use_tls=False)
        self.assertEqual(self.parameters(), ["mqtt.factory.lan", "1883", "False"])
        self.save(iiot_mqtt_use_tls=True)
        self.assertEqual(self.parameters(), ["mqtt.factory.lan", "1883", "True"])
        self.save(iiot_mqtt_host="")
        self.assertFalse(self.parameters()[0])

    def test_devices_learn_of_a_change_and_of_nothing_else(self):
        device = self.paired()
        self.save(iiot_mqtt_host="mqtt.factory.lan")
        version = device.config_version
        self.save()
        self.assertEqual(device.config_version, version)
        self.save(iiot_mqtt_host="other.factory.lan")
        self.assertGreater(device.config_version, version)
        self.assertEqual(device._wire_config()["mqtt"], {"host": "other.factory.lan", "port": 8883, "tls": True})
        version = device.config_version
        self.env["ir.config_parameter"].search([("key", "=", "iiot.mqtt_host")]).unlink()
        self.assertGreater(device.config_version, version)

    def test_a_port_that_is_none_is_refused(self):
        for port in (0, 70_000, -1):
            with self.assertRaises(ValidationError):
                self.save(iiot_mqtt_port=port)

    def test_the_page_shows_them(self):
        form = Form(self.env["res.config.settings"])
        form.iiot_mqtt_host = "mqtt.factory.lan"
        form.save().execute()
        self.assertEqual(self.parameters()[0], "mqtt.factory.lan")
