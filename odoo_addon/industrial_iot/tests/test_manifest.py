from odoo.tests.common import TransactionCase, tagged


@tagged("post_install", "-at_install")
class TestManifest(TransactionCase):
    def test_the_addon_is_installed_under_its_name(self):
        module = self.env["ir.module.module"].search([("name", "=", "industrial_iot")])
        self.assertEqual((module.state, module.shortdesc), ("installed", "Industrial IoT (IIoT) Integration"))
