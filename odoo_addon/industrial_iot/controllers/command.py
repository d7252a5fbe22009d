from __future__ import annotations

from typing import Any

from odoo import http
from odoo.exceptions import AccessDenied, AccessError, UserError
from odoo.http import request

from ..lib.problems import RefusalError
from .requests import bearer_key, contract_route, count_wrong, json_answer, json_body

OPTIONS = {"expires_in_s": "iiot_expires_in_s", "deliver": "iiot_deliver"}


class CommandController(http.Controller):
    """Commands from outside, through Odoo: by somebody who is logged in, or with an API key of Odoo."""

    @contract_route("/iiot/command/<string:device_id>", methods=["POST"], keyless=True)
    def send(self, device_id: str) -> http.Response:
        """``{"action", "params"?, "expires_in_s"?, "deliver"?}``: 202 ``{"command_id", "state", "reason"}``.

        Only JSON is taken, which no form of another site can send with somebody's cookie.
        """
        body = json_body()
        _become_user()
        order = _checked(body)
        device = request.env["iiot.device"].search([("device_id", "=", device_id)])
        if not device:
            raise RefusalError(404, "unknown_device", f"no device {device_id[:64]} is known here")
        options = {key: order[name] for name, key in OPTIONS.items() if order.get(name) is not None}
        try:
            command = device.with_context(**options).send_command(order["action"], order.get("params") or {})
        except AccessError as error:
            raise RefusalError(403, "forbidden", str(error)) from None
        except UserError as error:
            raise RefusalError(422, "bad_request", str(error)) from None
        told = {"command_id": command.command_id, "state": command.state, "reason": command.reason or None}
        return json_answer(told, status=202)


def _become_user():
    """Go on as the user of the key, or of the session; 401 where there is neither, 403 where he is no IIoT user."""
    key = bearer_key()
    uid = _user_of_key(key) if key else request.session.uid
    if not uid:
        refusal = RefusalError(
            401, "unauthorized", "log in, or send an API key of Odoo", headers={"WWW-Authenticate": "Bearer"}
        )
        raise count_wrong("user-key", refusal) if key else refusal
    request.update_env(user=uid, context={**request.env["res.users"].with_user(uid).context_get()})
    if not request.env.user.active or not request.env.user.has_group("industrial_iot.group_iiot_user"):
        raise RefusalError(403, "forbidden", "only IIoT users may send commands")


def _user_of_key(key: str) -> int | None:
    try:
        return request.env["res.users.apikeys"]._check_credentials(scope="rpc", key=key)
    except AccessDenied:
        return None


def _checked(body: Any) -> dict[str, Any]:
    if not isinstance(body, dict):
        raise RefusalError(422, "bad_request", "the body must be an object")
    if not isinstance(body.get("action"), str):
        raise RefusalError(422, "bad_request", "action: a text is required")
    if not isinstance(body.get("params"), (dict, type(None))):
        raise RefusalError(422, "bad_request", "params: must be an object")
    return body
