import logging

from odoo import _, api, fields, models, tools
from odoo.exceptions import UserError, ValidationError
from odoo.tools.safe_eval import safe_eval

from ..lib.domain import DeviceFacts, DomainError, condition_fields
from ..lib.jsonpath import PathError, compile_metric
from .iiot_telemetry_rule_plan import (
    ProfilePlan,
    TargetError,
    check_author,
    check_rule,
    no_such_field,
    not_searched,
    plan_rule,
)
from .rights import check_records
from .told import told

_logger = logging.getLogger(__name__)
BOOKKEEPING = frozenset(("paused_because", "activity_ids", "message_follower_ids", "message_ids", "sequence"))
"""Fields that may be written without becoming the rule's author."""


class IiotTelemetryRule(models.Model):
    """What a reading writes into which field of which business record.

    It runs with the rights of whoever edited it last: that user is its author.
    """

    _name = "iiot.telemetry.rule"
    _description = "IIoT Telemetry Rule"
    _inherit = ["mail.thread", "mail.activity.mixin"]
    _order = "sequence, id"

    name = fields.Char(required=True)
    active = fields.Boolean(default=True)
    sequence = fields.Integer(default=10, help="Of two rules that write the same field the later one wins.")
    profile_id = fields.Many2one(
        "iiot.device.profile", "Configuration Template", required=True, index=True, ondelete="cascade"
    )
    company_id = fields.Many2one(related="profile_id.company_id", store=True, index=True)
    json_path = fields.Char(
        "JSONPath",
        required=True,
        default="$.temperature",
        help="Where the value is in a reading: $.motor.temperature, $.sensors[0].value, "
        "$.sensors[?(@.name == 'oil')].value. Of several matches the first one counts.",
    )
    target_model_id = fields.Many2one(
        "ir.model", "Target", required=True, ondelete="cascade", domain=[("transient", "=", False)],
        help="What kind of record is written.",
    )  # fmt: skip
    target_field_id = fields.Many2one(
        "ir.model.fields", required=True, ondelete="cascade",
        domain="[('model_id', '=', target_model_id), ('readonly', '=', False)]",
    )  # fmt: skip
    target_model = fields.Char(related="target_model_id.model", string="Target Model Name")
    target_field = fields.Char(related="target_field_id.name", string="Target Field Name")
    target_type = fields.Selection(related="target_field_id.ttype", string="Target Field Type")
    record_by = fields.Selection(
        [("business_ref", "The device's business record"), ("domain", "Records found by a domain")],
        "Record",
        required=True,
        default="business_ref",
    )
    domain = fields.Char(
        help="Conditions for the records; they may use device and value: "
        "[('serial_no', '=', device.serial_number)]. The device has id, device_id, serial_number, name, profile, "
        "company_id, business_model and business_id."
    )
    factor = fields.Float(default=1.0, digits=0, help="Numbers are multiplied by this first.")
    offset = fields.Float(digits=0, help="Then this is added.")
    rounding = fields.Float(digits=0, help="The step to which numbers are rounded, such as 0.1 or 5. 0: not at all.")
    only_changed = fields.Boolean(
        "Only When Changed", default=True, help="Nothing is written if the field already has the value."
    )
    author_id = fields.Many2one(
        "res.users", readonly=True, copy=False, ondelete="restrict",
        help="Who edited this rule last. It writes with this user's rights.",
    )  # fmt: skip
    paused_because = fields.Char("Paused", readonly=True, copy=False, help="Why the rule does not run. Save it again.")
    applied_ids = fields.One2many("iiot.telemetry.rule.applied", "rule_id", "Devices", copy=False)
    failures = fields.Integer(compute="_compute_failures")
    is_failing = fields.Boolean("Failing", compute="_compute_failures", search="_search_is_failing")
    last_error = fields.Char(compute="_compute_failures")
    last_error_at = fields.Datetime(compute="_compute_failures")

    def _compute_failures(self):
        self.env["iiot.telemetry.rule.applied"].flush_model()
        self.env.cr.execute(
            """SELECT rule_id, sum(failures), (array_agg(last_error ORDER BY last_error_at DESC NULLS LAST))[1],
                      max(last_error_at), coalesce(bool_or(is_failing), false)
               FROM iiot_telemetry_rule_applied WHERE rule_id = ANY(%s) GROUP BY rule_id""",
            (self.ids,),
        )
        found = {rule: rest for rule, *rest in self.env.cr.fetchall()}
        for rule in self:
            rule.failures, rule.last_error, rule.last_error_at, rule.is_failing = found.get(
                rule.id, (0, False, False, False)
            )

    def _search_is_failing(self, operator, value):
        failing = (operator in ("=", "in")) == bool(value if operator in ("=", "!=") else True in value)
        rules = self.env["iiot.telemetry.rule.applied"].sudo().search([("is_failing", "=", True)]).mapped("rule_id").ids
        return [("id", "in" if failing else "not in", rules)]

    @api.onchange("target_model_id")
    def _onchange_target_model(self):
        if self.target_field_id.model_id != self.target_model_id:
            self.target_field_id = False

    @api.model_create_multi
    def create(self, vals_list):
        rules = super().create([self._with_author(values) for values in vals_list])
        rules._check_definition()
        return rules

    def write(self, vals):
        if not vals.keys() - BOOKKEEPING:
            result = super().write(vals)
            self.env.registry.clear_cache()
            return result
        vals = self._with_author(vals)
        result = super().write({**vals, "paused_because": False})
        self._check_definition()
        return result

    def unlink(self):
        self.env["iiot.telemetry.rule.applied"].sudo().search([("rule_id", "in", self.ids)]).unlink()
        self.env.registry.clear_cache()
        return super().unlink()

    def _with_author(self, values):
        """Whoever saves a rule is its author; code that runs as superuser may name another one, and has to."""
        author = values.get("author_id") if self.env.su else None
        return {**values, "author_id": author or self.env.uid}

    def _check_definition(self):
        """Refuse what could not run, or would do what its author may not."""
        self.env.registry.clear_cache()
        for rule in self.sudo():
            try:
                check_rule(rule)
                check_author(rule._author_env(), rule.target_model, rule.target_field)
                rule._check_domain()
            except (TargetError, PathError, DomainError) as error:
                why = self.env["iiot.wording"]._told(error)
                raise ValidationError(_("The rule %(rule)s cannot run: %(why)s", rule=rule.name, why=why)) from None
            except UserError as error:
                text = str(error.args[0])
                raise ValidationError(_("The rule %(rule)s cannot run: %(why)s", rule=rule.name, why=text)) from None

    def _author_env(self):
        return self.env(user=self.author_id.id, su=False, context={})

    def _check_domain(self):
        """Refuse conditions on fields that the target lacks, and what its search refuses."""
        if self.record_by != "domain":
            return
        model = self._author_env()[self.target_model]
        for path in condition_fields(self.domain):
            field, found = None, model
            for name in path.split("."):
                field = found._fields.get(name) if found is not None else None
                if field is None:
                    raise no_such_field(self.target_model, path)
                found = found[name] if field.relational else None
        for value in (0, ""):
            try:
                domain = safe_eval(self.domain, {"device": DeviceFacts(), "value": value})
            except Exception:  # it wants another value than this sample
                _logger.debug("The domain of %s cannot be tried with %r", self.name, value)
                continue
            try:
                with self.env.cr.savepoint(flush=False):
                    model.search(domain, limit=1)
            except Exception as error:
                raise not_searched(error) from None

    def action_forget_errors(self):
        """Count errors from zero again."""
        check_records(self, "write")
        self.env["iiot.telemetry.rule.applied"].sudo().search([("rule_id", "in", self.ids)]).write(
            {"failures": 0, "is_failing": False, "last_error": False, "last_error_at": False}
        )
        self.invalidate_recordset(["failures", "is_failing", "last_error", "last_error_at"])
        return told(", ".join(self.mapped("name")), _("Errors are counted from zero again."))

    @api.model
    @tools.ormcache("profile_id")
    def _plan(self, profile_id: int) -> ProfilePlan:
        """What becomes of the readings of this profile's devices; kept until a rule or a profile changes."""
        profile = self.env["iiot.device.profile"].sudo().browse(profile_id)
        rules = self.sudo().search([("profile_id", "=", profile_id), ("paused_because", "=", False)])
        return ProfilePlan(
            keep_history=profile.keep_history,
            metrics=tuple((name, compile_metric(name)) for name in profile._metric_names()),
            rules=tuple(plan_rule(rule) for rule in rules),
        )
