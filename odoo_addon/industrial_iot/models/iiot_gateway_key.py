from datetime import timedelta

from odoo import _, api, fields, models

from ..lib import tokens
from .constraints import declare
from .told import told

OVERLAP_DAYS = 7
"""How long earlier keys stay good when a new one is made: the appliance must get it first."""


class IiotGatewayKey(models.Model):
    """A key with which an appliance speaks to Odoo: good for the routes of the contract and nothing else."""

    _name = "iiot.gateway.key"
    _description = "IIoT Gateway Key"
    _order = "id desc"

    name = fields.Char(required=True)
    gateway_id = fields.Many2one("iiot.gateway", required=True, index=True, ondelete="cascade")
    company_id = fields.Many2one(related="gateway_id.company_id", store=True, index=True)
    digest = fields.Char(required=True, readonly=True, copy=False, groups=fields.NO_ACCESS)
    expires_at = fields.Datetime("Valid Until", readonly=True, copy=False, help="Empty: until it is revoked.")
    last_used_at = fields.Datetime("Last Used", readonly=True, copy=False, help="To the hour.")
    is_good = fields.Boolean("Valid", compute="_compute_is_good")

    declare(vars(), digest_unique=("UNIQUE(digest)", "There is such a key already."))

    @api.depends("expires_at")
    def _compute_is_good(self):
        now = fields.Datetime.now()
        for key in self:
            key.is_good = not key.expires_at or key.expires_at > now

    @api.model
    def _make(self, gateway, name: str) -> str:
        """A new key for a gateway; what is returned is stored nowhere."""
        key = tokens.new_key()
        self.create({"name": name, "gateway_id": gateway.id, "digest": tokens.digest(key)})
        return key

    def _end_after_overlap(self):
        """Let keys end by themselves, unless they do so earlier."""
        end = fields.Datetime.now() + timedelta(days=OVERLAP_DAYS)
        self.filtered(lambda key: not key.expires_at or key.expires_at > end).write({"expires_at": end})

    def action_revoke(self):
        """The key is not valid any more."""
        self.gateway_id.check_access_rights_for_write()
        self.sudo().filtered("is_good").write({"expires_at": fields.Datetime.now()})
        return told(", ".join(self.mapped("name")), _("The key is not valid any more."))

    @api.model
    def _owner(self, key: str) -> int | None:
        """The gateway of a good key. Found by its digest: how long that takes says nothing of other keys."""
        self.env.cr.execute(
            "SELECT gateway_id FROM iiot_gateway_key WHERE digest = %s "
            "AND (expires_at IS NULL OR expires_at > clock_timestamp() AT TIME ZONE 'UTC')",
            (tokens.digest(key),),
        )
        row = self.env.cr.fetchone()
        return row and row[0]

    @api.model
    def _note_use(self, key: str) -> None:
        """To the hour: a key's row is not written with each request."""
        self.env.cr.execute(
            "UPDATE iiot_gateway_key SET last_used_at = now() AT TIME ZONE 'UTC' WHERE digest = %s "
            "AND (last_used_at IS NULL OR last_used_at < now() AT TIME ZONE 'UTC' - interval '1 hour')",
            (tokens.digest(key),),
        )
