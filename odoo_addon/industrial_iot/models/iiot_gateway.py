import secrets
from datetime import timedelta
from typing import Any

from odoo import _, api, fields, models
from odoo.exceptions import UserError, ValidationError

from ..lib import tokens
from ..lib.addresses import is_loopback
from ..lib.enrolment import EnrolmentRequest, IdentityRequest
from ..lib.problems import RefusalError
from .constraints import declare
from .told import told

CODE_VALID_H = 2
SILENCE_LIMIT_MIN = 15


class IiotGateway(models.Model):
    """An edge appliance in a factory, as Odoo knows it: what people decide of it.

    What it reports itself is in ``iiot.gateway.report``, so that the two never get into each other's way.
    """

    _name = "iiot.gateway"
    _description = "IIoT Gateway"
    _inherit = ["mail.thread", "mail.activity.mixin"]
    _inherits = {"iiot.gateway.report": "report_id"}
    _order = "name, id"

    name = fields.Char(required=True, tracking=True)
    report_id = fields.Many2one("iiot.gateway.report", required=True, ondelete="restrict", copy=False, index=True)
    company_id = fields.Many2one("res.company", required=True, index=True, default=lambda self: self.env.company)
    active = fields.Boolean(default=True, tracking=True)
    is_enabled = fields.Boolean(
        "Switched On", default=True, tracking=True, copy=False, help="Off: nothing is accepted from it or sent to it."
    )
    uid = fields.Char("Gateway ID", readonly=True, copy=False, index=True, help="The gateway's own ID (UUID).")
    user_id = fields.Many2one("res.users", "Responsible", tracking=True, default=lambda self: self.env.user)
    silence_limit_min = fields.Integer(
        "Silence Limit (min)",
        default=SILENCE_LIMIT_MIN,
        help="If there is no contact for longer, the person responsible gets an activity. 0: never.",
    )
    device_ids = fields.One2many("iiot.device", "gateway_id", "Devices")
    mqtt_host = fields.Char(
        "MQTT Host", help="Where devices connect. Empty: the address in Settings, else the gateway's own."
    )
    mqtt_port = fields.Integer("MQTT Port", help="0: the port in Settings, else the gateway's own.")
    mqtt_port_text = fields.Char(
        "Port",
        compute="_compute_mqtt_port_text",
        inverse="_inverse_mqtt_port_text",
        help="Empty: the port in Settings, else the gateway's own.",
    )
    mqtt_use_tls = fields.Selection([("True", "Yes"), ("False", "No")], "MQTT over TLS", help="Empty: as in Settings.")

    key_ids = fields.One2many("iiot.gateway.key", "gateway_id", "Keys")
    enrolled_at = fields.Datetime(readonly=True, copy=False)
    database_uuid = fields.Char(
        "Bound To",
        readonly=True,
        copy=False,
        help="The database in which it was enrolled. A copy of that database refuses it.",
    )
    is_copy = fields.Boolean(
        "Copied", compute="_compute_is_copy", help="It was enrolled in another database, of which this one is a copy."
    )
    code_digest = fields.Char(copy=False, groups=fields.NO_ACCESS, index=True)
    code_expires_at = fields.Datetime("Enrolment Code Valid Until", readonly=True, copy=False)
    code_used_at = fields.Datetime(readonly=True, copy=False)
    api_url = fields.Char(copy=False, groups=fields.NO_ACCESS, help="Where Odoo reaches the gateway's own API.")
    api_key = fields.Char(copy=False, groups=fields.NO_ACCESS, help="The key of that API, made for Odoo.")
    ca_pem = fields.Text(copy=False, groups=fields.NO_ACCESS, help="The authority that issued its certificate.")
    api_address = fields.Char(
        "API Address",
        compute="_compute_api_address",
        compute_sudo=True,
        help="Where Odoo calls the gateway, if it may.",
    )

    declare(vars(), uid_unique=("UNIQUE(uid)", "There is a gateway with this ID already."))

    @api.depends("database_uuid")
    def _compute_is_copy(self):
        own = self._own_database_uuid()
        for gateway in self:
            gateway.is_copy = bool(gateway.database_uuid) and gateway.database_uuid != own

    @api.depends("api_url", "api_key")
    def _compute_api_address(self):
        for gateway in self:
            gateway.api_address = gateway.api_key and gateway.api_url

    @api.depends("mqtt_port")
    def _compute_mqtt_port_text(self):
        for gateway in self:
            gateway.mqtt_port_text = str(gateway.mqtt_port) if gateway.mqtt_port else False

    def _inverse_mqtt_port_text(self):
        for gateway in self:
            text = (gateway.mqtt_port_text or "0").strip()
            if not text.isdecimal() or int(text) > 65535:
                raise ValidationError(_("A port is a number from 1 to 65535."))
            gateway.mqtt_port = int(text)

    def unlink(self):
        reports = self.report_id
        self.env["iiot.gateway.epoch"]._forget(self)
        self.env["iiot.device.change"]._forget(self)
        result = super().unlink()
        reports.sudo().unlink()
        return result

    # --- for people --------------------------------------------------------------------------------------------

    def action_new_code(self):
        """Make an enrolment code and show it, once; the one before is worth nothing any more."""
        self.ensure_one()
        self.check_access_rights_for_write()
        if not self.is_enabled:
            raise UserError(_("The gateway is switched off: switch it on before you enrol it."))
        code = self._new_code()
        enroll = f"sudo iiot-appliance enroll --odoo {self._own_url()} --code {code}"
        return self._show_once(
            _("Enrol the Gateway"),
            secret=code,
            command=f"{enroll} && sudo systemctl restart iiot-appliance",
            expires_at=self.sudo().code_expires_at,
        )

    def action_new_key(self):
        """Make a further key and show it, once; the earlier ones end after the overlap."""
        self.ensure_one()
        self.check_access_rights_for_write()
        self.key_ids.sudo()._end_after_overlap()
        key = self.env["iiot.gateway.key"].sudo()._make(self, _("Created by %s", self.env.user.name))
        lines = {"address_line": f"ODOO_BASE_URL={self._own_url()}", "key_line": f"ODOO_API_KEY={key}"}
        return self._show_once(_("Key of the Gateway"), secret=key, **lines)

    @api.model
    def _own_url(self) -> str:
        """Where appliances reach this Odoo."""
        return self.env["ir.config_parameter"].sudo().get_param("web.base.url", "")

    def action_forget_address(self):
        """Odoo calls the appliance no more; it goes on to ask by itself."""
        self.check_access_rights_for_write()
        self.sudo().write({"api_url": False, "api_key": False, "ca_pem": False})
        return told(", ".join(self.mapped("name")), _("Odoo no longer calls the gateway."))

    def check_access_rights_for_write(self):
        """A button that shows a secret is for those who may change the gateway."""
        _check_access(self, "write")

    def _show_once(self, title: str, **values: Any) -> dict[str, Any]:
        """A dialog with a secret that is stored nowhere: it is in the answer to the click, and in no table."""
        return {
            "type": "ir.actions.act_window",
            "name": title,
            "res_model": "iiot.gateway.secret",
            "view_mode": "form",
            "target": "new",
            "context": {f"default_{name}": value for name, value in {**values, "warning": self._url_warning()}.items()},
        }

    @api.model
    def _url_warning(self) -> str:
        url = self._own_url()
        if not is_loopback(url):
            return ""
        return _(
            "Odoo takes %s for its own address (system parameter web.base.url): no other machine reaches it there. "
            "Use the address at which the gateway reaches Odoo instead.",
            url,
        )

    # --- enrolment ---------------------------------------------------------------------------------------------

    def _new_code(self, valid_s: float = CODE_VALID_H * 3600) -> str:
        """A code that turns an appliance into this gateway, once."""
        self.ensure_one()
        code = tokens.new_token()
        self.sudo().write(
            {
                "code_digest": tokens.digest(code),
                "code_expires_at": fields.Datetime.now() + timedelta(seconds=valid_s),
                "code_used_at": False,
            }
        )
        return code

    @api.model
    def _enroll(self, asked: EnrolmentRequest) -> dict[str, Any]:
        """Answer ``POST /iiot/gateway/enroll``: a key for the gateway on whose form the code was made."""
        gateway = self.sudo().search([("code_digest", "=", tokens.digest(asked.code))], limit=1)
        if not gateway:
            raise RefusalError(403, "invalid_code", "no such code")
        # two who use one code at once: the second waits here, and begins again with a fresh look
        self.env.cr.execute("SELECT FROM iiot_gateway WHERE id = %s FOR UPDATE", (gateway.id,), log_exceptions=False)
        if gateway.code_used_at:
            raise RefusalError(410, "code_used", "this code has been used: make another one")
        if gateway.code_expires_at <= fields.Datetime.now():
            raise RefusalError(410, "code_expired", "this code has expired: make another one")
        if not gateway.is_enabled:
            raise RefusalError(403, "gateway_disabled", "this gateway is switched off in Odoo")
        former, identity = gateway.uid or None, gateway.identity or None
        if asked.recover and (identity is None or former is None):
            raise RefusalError(404, "no_identity", "no identity of this gateway is kept here")
        becomes = former if asked.recover else asked.gateway_uid  # _() takes a local uid for a user
        twin = (
            self.sudo()
            .with_context(active_test=False)
            .search([("uid", "=", becomes), ("id", "!=", gateway.id)], limit=1)
        )
        if twin:
            raise RefusalError(
                409, "already_enrolled", f"this appliance is the gateway {twin.name} in Odoo: make the code on its form"
            )
        gateway.key_ids._end_after_overlap()
        key = self.env["iiot.gateway.key"].sudo()._make(gateway, _("Enrolment of %s", asked.name))
        now = fields.Datetime.now()
        own_database = self._own_database_uuid()
        values = {"uid": becomes, "code_used_at": now, "enrolled_at": now, "database_uuid": own_database}
        if asked.api_url and asked.api_key:
            values |= {"api_url": asked.api_url, "api_key": asked.api_key, "ca_pem": asked.ca_pem or False}
        else:
            values |= {"api_url": False, "api_key": False, "ca_pem": False}
        gateway.write(values)
        gateway.message_post(body=_("Enrolled: %(name)s, version %(version)s.", name=asked.name, version=asked.version))
        answer = {"api_key": key, "database_uuid": own_database, "gateway_uid": former}
        return {**answer, "identity": identity} if asked.recover else answer

    def _keep_identity(self, told: IdentityRequest) -> None:
        """Answer ``PUT /iiot/gateway/identity``: the newest one is kept, ``None`` ends that."""
        self._check_copy(told.start, told.database_uuid)
        now = fields.Datetime.now() if told.identity else False
        self.report_id.write({"identity": told.identity or False, "identity_at": now})

    # --- who may speak -----------------------------------------------------------------------------------------

    @api.model
    def _own_database_uuid(self) -> str:
        return self.env["ir.config_parameter"].sudo().get_param("database.uuid", "")

    def _is_bound_here(self) -> bool:
        """Whether this gateway may be spoken to from this database: on, and not a copy's."""
        self.ensure_one()
        return bool(self.active and self.is_enabled and not self.is_copy)

    def _check_uid(self, uid: str) -> None:
        """The gateway that a request names must be that of its key; a new one is named by its first request."""
        self.ensure_one()
        if self.uid == uid:
            return
        taken = self.sudo().with_context(active_test=False).search_count([("uid", "=", uid)], limit=1)
        if self.uid or taken:
            raise RefusalError(403, "wrong_gateway", "this key is another gateway's")
        self.sudo().write({"uid": uid, "database_uuid": self._own_database_uuid()})

    def _check_database(self, named: str | None) -> None:
        """409 for an appliance that is bound to another database, and where this database is a copy of its own."""
        own = self._own_database_uuid()
        if (named is not None and named != own) or (self.database_uuid and self.database_uuid != own):
            raise RefusalError(
                409,
                "wrong_database",
                "this appliance is bound to another database, is this a copy?",
                database_uuid=own,
            )

    def _check_copy(self, start: str | None, database_uuid: str | None) -> None:
        """409 for what is meant for another database, or comes from a copy that is not the active one."""
        self._check_database(database_uuid)
        admission = self.report_id.admission
        if start is not None and admission and admission != start:
            raise RefusalError(409, "fenced", "another start of this appliance is the active one: sync first")

    @api.model
    def _new_admission(self) -> str:
        return secrets.token_hex(8)


def _check_access(records: models.Model, operation: str) -> None:
    if hasattr(records, "check_access"):  # from 18 on
        records.check_access(operation)
    else:
        records.check_access_rights(operation)
        records.check_access_rule(operation)
