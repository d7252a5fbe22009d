from jsonpath_ng import parse
from odoo.tests.common import TransactionCase, tagged


@tagged("post_install", "-at_install")
class TestManifest(TransactionCase):
    def test_the_addon_is_installed_under_its_name(self):
        module = self.env["ir.module.module"].search([("name", "=", "industrial_iot")])
        self.assertEqual((module.state, module.shortdesc), ("installed", "Industrial IoT (IIoT) Integration"))

    def test_the_library_it_asks_for_reads_a_path(self):
        self.assertEqual([match.value for match in parse("metrics.temp").find({"metrics": {"temp": 21.5}})], [21.5])
