from datetime import timedelta
from typing import Any

from odoo import api, fields, models

from ..lib import tokens
from ..lib.claim import ClaimRequest
from ..lib.problems import RefusalError

TOKEN_VALID_S = 24 * 3600.0


class IiotDeviceToken(models.Model):
    """A one-time token that pairs a device; only its digest is kept."""

    _name = "iiot.device.token"
    _description = "IIoT Device Token"
    _order = "id desc"

    device_id = fields.Many2one("iiot.device", required=True, index=True, ondelete="cascade")
    digest = fields.Char(required=True, index=True, groups=fields.NO_ACCESS)
    expires_at = fields.Datetime(required=True)
    claimed_at = fields.Datetime()
    request_digest = fields.Char(groups=fields.NO_ACCESS, help="Who repeats the request gets the answer again.")
    heard_at = fields.Datetime(help="When the device that was paired with it was first seen.")

    @api.model
    def _note_heard(self, device_ids: list[int]) -> None:
        """Devices that were heard of have received their configuration: nobody else gets it by the same token."""
        self.env.cr.execute(
            "UPDATE iiot_device_token SET heard_at = now() AT TIME ZONE 'UTC' "
            "WHERE device_id = ANY(%s) AND claimed_at IS NOT NULL AND heard_at IS NULL",
            (device_ids,),
        )

    @api.model
    def _claim(self, gateway, asked: ClaimRequest) -> dict[str, Any]:
        """Answer ``POST /iiot/config``: the configuration of a device for its token, once; it is ``gateway``'s then."""
        token = self.search(
            [
                ("digest", "=", tokens.digest(asked.token)),
                ("device_id.serial_number", "=", asked.serial),
                ("device_id.company_id", "=", gateway.company_id.id),
            ],
            limit=1,
        )
        if not token:
            raise RefusalError(403, "invalid_token", "serial number or token is wrong")
        # two who use one token at once: the second waits here, and begins again with a fresh look
        self.env.cr.execute("SELECT FROM iiot_device_token WHERE id = %s FOR UPDATE", (token.id,), log_exceptions=False)
        device = token.device_id
        if not device.is_active or device.state == "retired":
            raise RefusalError(403, "device_disabled", "the device is switched off in Odoo")
        named = tokens.digest(asked.request_id) if asked.request_id else False
        if token.claimed_at:
            repeated = device.gateway_id == gateway and token.request_digest == named and (named or not token.heard_at)
            if not repeated:
                raise RefusalError(410, "token_used", "this token has been used")
        elif token.expires_at <= fields.Datetime.now():
            raise RefusalError(410, "token_expired", "this token has expired: make another one")
        else:
            token.write({"claimed_at": fields.Datetime.now(), "request_digest": named})
            self.search([("device_id", "=", device.id), ("id", "!=", token.id)]).unlink()
            device._take_pairing(gateway)
        device.state_id.write(asked.told())
        # the pairing fulfils every wish for a new secret up to here
        return {**device._wire_config(), "secret_version": device.secret_version}


class IiotDevice(models.Model):
    _inherit = "iiot.device"

    token_until = fields.Datetime(
        "Token Valid Until", compute="_compute_token_until", help="Of the token that was made and is not used yet."
    )

    def _generate_token(self, valid_s: float = TOKEN_VALID_S) -> str:
        """A token that pairs this device once; earlier ones that were not used are worth nothing any more."""
        self.ensure_one()
        token = tokens.new_token()
        model = self.env["iiot.device.token"].sudo()
        model.search([("device_id", "=", self.id), ("claimed_at", "=", False)]).unlink()
        expires_at = fields.Datetime.now() + timedelta(seconds=valid_s)
        model.create({"device_id": self.id, "digest": tokens.digest(token), "expires_at": expires_at})
        return token

    def _end_tokens(self):
        """None of their tokens leads anywhere any more."""
        self.env["iiot.device.token"].sudo().search([("device_id", "in", self.ids)]).unlink()

    def _open_tokens(self):
        """Those that wait to be used."""
        domain = [("device_id", "in", self.ids), ("claimed_at", "=", False), ("expires_at", ">", fields.Datetime.now())]
        return self.env["iiot.device.token"].sudo().search(domain)

    def _has_open_token(self) -> bool:
        return bool(self._open_tokens())

    def _compute_token_until(self):
        until = {token.device_id.id: token.expires_at for token in self._open_tokens()}
        for device in self:
            device.token_until = until.get(device.id)
