from typing import Any

from odoo import http

from ..lib.claim import read_claim
from ..lib.problems import RefusalError
from .requests import contract_route, count_wrong, json_answer, json_body


class ConfigController(http.Controller):
    """A device is paired through its appliance."""

    @contract_route("/iiot/config", methods=["POST"], for_device=True)
    def claim(self, gateway: Any) -> http.Response:
        asked = read_claim(json_body())
        gateway._check_database(None)
        try:
            answer = gateway.env["iiot.device.token"]._claim(gateway, asked)
        except RefusalError as refusal:
            if refusal.code == "invalid_token":
                raise count_wrong(f"token {asked.serial}", refusal) from None
            raise
        return json_answer(answer)
