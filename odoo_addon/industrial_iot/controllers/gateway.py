from typing import Any

from odoo import http
from odoo.http import request

from ..lib.enrolment import read_enrolment, read_identity
from ..lib.problems import RefusalError
from ..lib.sync import read_sync
from .requests import bearer_key, contract_route, count_wrong, json_answer, json_body


class GatewayController(http.Controller):
    """What an appliance calls beside its messages."""

    @contract_route("/iiot/gateway/sync", methods=["POST"])
    def sync(self, gateway: Any) -> http.Response:
        return json_answer(gateway._sync(read_sync(json_body()), bearer_key()))

    @contract_route("/iiot/gateway/enroll", methods=["POST"], keyless=True)
    def enroll(self) -> http.Response:
        asked = read_enrolment(json_body())
        request.update_env(user=request.env.ref("industrial_iot.user_gateway").id, context={"lang": "en_US"})
        try:
            answer = request.env["iiot.gateway"].sudo()._enroll(asked)
        except RefusalError as refusal:
            if refusal.code == "invalid_code":
                raise count_wrong("code", refusal) from None
            raise
        return json_answer(answer)

    @contract_route("/iiot/gateway/identity", methods=["PUT"])
    def identity(self, gateway: Any) -> http.Response:
        told = read_identity(json_body())
        gateway._check_uid(told.gateway)
        gateway._keep_identity(told)
        return json_answer({"status": "ok"})
