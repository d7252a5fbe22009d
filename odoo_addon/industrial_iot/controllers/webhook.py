from typing import Any

from odoo import http

from .requests import contract_route, json_answer, json_body


class WebhookController(http.Controller):
    """Messages of devices, and of the appliance itself."""

    @contract_route("/iiot/webhook", methods=["POST"], repeats_alone=True)
    def batch(self, gateway: Any) -> http.Response:
        return json_answer(gateway.env["iiot.inbox"]._accept_batch(gateway, json_body()))

    @contract_route("/iiot/webhook/<string:device_name>", methods=["POST"], repeats_alone=True)
    def single(self, gateway: Any, device_name: str) -> http.Response:
        return json_answer(gateway.env["iiot.inbox"]._accept_single(gateway, device_name, json_body()))
