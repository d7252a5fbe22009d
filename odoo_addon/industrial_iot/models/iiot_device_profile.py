from __future__ import annotations

from typing import Any

from odoo import _, api, fields, models
from odoo.exceptions import UserError, ValidationError

from ..lib import json_text, topics
from ..lib.rendering import DEFAULT_TEMPLATE, Renderer, RenderingError, packet_too_large, publish_bytes
from ..lib.template_samples import trials

RENDERER = Renderer()
"""Of this process, with the templates it has compiled."""
LONGEST_EXPIRY_S = 30 * 86_400
LEAST_PACKET_BYTES = 128
SETTINGS_CHARACTERS = 64 * 1024
TOPIC_FIELDS = {f"{name}_topic_template": name for name in topics.DEFAULTS}


class IiotDeviceProfile(models.Model):
    """How devices of one kind are spoken to: topics, command template, settings, limits."""

    _name = "iiot.device.profile"
    _description = "IIoT Device Configuration Template"
    _order = "name, id"

    name = fields.Char(required=True)
    active = fields.Boolean(default=True)
    company_id = fields.Many2one("res.company", index=True, help="Empty: for all companies.")
    device_ids = fields.One2many("iiot.device", "profile_id", "Devices")
    device_count = fields.Integer(compute="_compute_device_count")

    telemetry_topic_template = fields.Char(
        required=True,
        default=topics.DEFAULTS["telemetry"],
        help="Where devices publish their readings; {device} stands for the device ID. "
        "Left as it is, the gateway's own setting counts.",
    )
    command_topic_template = fields.Char(
        required=True, default=topics.DEFAULTS["command"], help="Where devices receive their commands."
    )
    command_response_topic_template = fields.Char(
        required=True, default=topics.DEFAULTS["command_response"], help="Where devices answer commands."
    )
    ota_notify_topic_template = fields.Char(
        "OTA Notify Topic Template",
        required=True,
        default=topics.DEFAULTS["ota_notify"],
        help="Where devices are offered new firmware.",
    )
    ota_status_topic_template = fields.Char(
        "OTA Status Topic Template",
        required=True,
        default=topics.DEFAULTS["ota_status"],
        help="Where devices report on an update.",
    )
    local_publish = fields.Text(
        "May Publish Locally",
        help="Topic filters, one per line: what devices may publish to each other through the gateway, without Odoo.",
    )
    local_subscribe = fields.Text(
        "May Subscribe Locally", help="Topic filters, one per line, that devices may subscribe to."
    )

    command_template = fields.Text(
        required=True,
        default=DEFAULT_TEMPLATE,
        help="A Jinja2 template of what is sent. It may use action, params, device_id and now().",
    )
    command_is_json = fields.Boolean("Commands Are JSON", default=True, help="A command that is not JSON is not sent.")
    command_add_id = fields.Boolean(
        "Add Command ID",
        default=True,
        help="A command that is a JSON object gets a command_id, which the device repeats in its answer.",
    )
    command_expires_in_s = fields.Integer(
        "Commands Expire After (s)",
        default=60,
        required=True,
        help="A command that did not reach the device by then is not carried out any more.",
    )
    command_response_limit_s = fields.Integer("Answer Expected Within (s)", default=60, required=True)
    settings = fields.Text(
        "Device Settings", default="{}", help="A JSON object that devices get with their configuration."
    )
    max_packet_bytes = fields.Integer(
        "Largest Packet (bytes)", help="The largest MQTT packet that the device takes. 0: no limit."
    )

    inactivity_limit_min = fields.Integer(
        "Inactivity Limit (min)",
        default=0,
        help="If a device sends no data for this long, the person responsible for its gateway gets an activity. "
        "0: never.",
    )
    keep_history = fields.Boolean(default=True, help="Keep every reading, for lists, charts and trying rules.")
    history_days = fields.Integer("Keep History (days)", default=90, help="0: forever.")
    metrics = fields.Text(
        help="Names of values in the readings, one per line, that get charts: a key such as temperature, or a JSONPath."
    )

    template_note = fields.Text("Template Notes", compute="_compute_template_note")
    template_problem = fields.Char(compute="_compute_template_note")
    preview_action = fields.Char(compute="_compute_preview_input", readonly=False)
    preview_params = fields.Char("Preview Parameters", compute="_compute_preview_input", readonly=False)
    preview_result = fields.Text(compute="_compute_preview_result")

    # --- checks ----------------------------------------------------------------------------------------------

    @api.constrains(*TOPIC_FIELDS, "max_packet_bytes")
    def _check_topics(self):
        for profile in self:
            templates = profile._topic_templates()
            for field, name in TOPIC_FIELDS.items():
                problem = topics.template_error(profile[field] or "")
                if problem:
                    reason = self.env["iiot.wording"]._told(problem)
                    raise ValidationError(
                        _("%(field)s: %(reason)s.", field=profile._label(field), reason=reason[0].upper() + reason[1:])
                    )
                longest = publish_bytes(topics.expand(templates[name], "x" * 64), b"")
                if profile.max_packet_bytes and longest > profile.max_packet_bytes:
                    raise ValidationError(
                        _("%(field)s is longer than the largest packet allows.", field=profile._label(field))
                    )
            if len(set(templates.values())) < len(templates):
                raise ValidationError(
                    _(
                        "The topics of a configuration template must differ from each other and from %s.",
                        ", ".join(
                            template
                            for name, template in topics.GATEWAY_DEFAULTS.items()
                            if name not in topics.DEFAULTS
                        ),
                    )
                )

    @api.constrains("local_publish", "local_subscribe", *TOPIC_FIELDS)
    def _check_local_topics(self):
        others = self.sudo().with_context(active_test=False).search([("id", "not in", self.ids)])
        every = others | self.sudo()
        for profile in self:
            for field in ("local_publish", "local_subscribe"):
                filters = _lines(profile[field])
                if len(filters) > topics.MOST_LOCAL_FILTERS:
                    raise ValidationError(
                        _(
                            "%(field)s: %(most)s filters at most.",
                            field=profile._label(field),
                            most=topics.MOST_LOCAL_FILTERS,
                        )
                    )
                for each in filters:
                    reason = topics.local_filter_error(each)
                    if reason:
                        raise ValidationError(
                            _(
                                "%(field)s, %(topic)s: %(reason)s.",
                                field=profile._label(field),
                                topic=each,
                                reason=self.env["iiot.wording"]._told(reason),
                            )
                        )
            profile._check_overlaps(every)
            for other in every - profile:
                other._check_overlaps(profile)

    def _check_overlaps(self, profiles):
        """No local topic may meet a topic of the seven, of any profile."""
        taken = {
            template.replace(topics.PLACEHOLDER, "+")
            for profile in profiles
            for template in profile._topic_templates().values()
        }
        for each in _lines(self.local_publish) + _lines(self.local_subscribe):
            local = each.replace(topics.PLACEHOLDER, "+")
            met = next((topic for topic in taken if topics.filters_overlap(local, topic)), None)
            if met:
                raise ValidationError(
                    _(
                        "The local topic %(local)s would reach %(topic)s, which belongs to devices and gateway.",
                        local=each,
                        topic=met,
                    )
                )

    @api.constrains("command_template", "command_is_json")
    def _check_command_template(self):
        for profile in self:
            problem = profile._template_problem()
            if problem:
                raise ValidationError(_("Command Template: %s", problem))

    @api.constrains("settings")
    def _check_settings(self):
        for profile in self:
            text = profile.settings or "{}"
            try:
                value = json_text.loads(text)
            except ValueError as error:
                told = self.env["iiot.wording"]._told(error)
                raise ValidationError(_("Device Settings are not JSON: %s", told)) from None
            if not isinstance(value, dict) or len(text) > SETTINGS_CHARACTERS:
                raise ValidationError(_('Device Settings must be a JSON object such as {"telemetry_interval_s": 10}.'))

    @api.constrains(
        "command_expires_in_s", "command_response_limit_s", "max_packet_bytes", "inactivity_limit_min", "history_days"
    )
    def _check_limits(self):
        for profile in self:
            for field in ("command_expires_in_s", "command_response_limit_s"):
                if not 0 < profile[field] <= LONGEST_EXPIRY_S:
                    raise ValidationError(
                        _(
                            "%(field)s must be from 1 to %(most)s (30 days).",
                            field=profile._label(field),
                            most=LONGEST_EXPIRY_S,
                        )
                    )
            if profile.max_packet_bytes and profile.max_packet_bytes < LEAST_PACKET_BYTES:
                raise ValidationError(_("The largest packet must have %s bytes at least.", LEAST_PACKET_BYTES))
            if profile.inactivity_limit_min < 0 or profile.history_days < 0:
                raise ValidationError(_("Limits cannot be negative."))

    def _label(self, field: str) -> str:
        return self._fields[field]._description_string(self.env)

    def _template_problem(self) -> str | None:
        """What is wrong with the command template in any case: it is none, or no sample of parameters makes it work."""
        return self._template_problem_and_line()[0]

    def _template_problem_and_line(self) -> tuple[str | None, int]:
        """The same, and the line of the template where that is known, else 0."""
        self.ensure_one()
        template = self.command_template or ""
        try:
            RENDERER.check(template)
        except RenderingError as error:
            return self.env["iiot.wording"]._told(error), error.line or 0
        for of_action in trials(RENDERER, template, is_json=self.command_is_json):
            if all(trial.error for trial in of_action):
                error = of_action[0].error
                number = error.template_line
                line = _(" (line %s)", number) if number else ""
                told = self.env["iiot.wording"]._told(error)
                told = _("action %(action)s: %(error)s%(line)s", action=of_action[0].action, error=told, line=line)
                return told, number
        return None, 0

    # --- trying ----------------------------------------------------------------------------------------------

    def preview_command(self, action: str, params: dict[str, Any] | None = None) -> dict[str, Any]:
        """What a device of this profile would get: ``payload`` and ``packet_bytes``, or ``error`` and ``line``."""
        self.ensure_one()
        answer: dict[str, Any] = {"payload": False, "packet_bytes": 0, "error": False, "code": False, "line": 0}
        device_id = "device-01"
        try:
            payload = self._render_command(
                action, params or {}, device_id=device_id, command_id="00000000-0000-0000-0000-000000000000"
            )
        except RenderingError as error:
            told = self.env["iiot.wording"]._told(error)
            return {**answer, "error": told, "code": error.code, "line": error.line or 0}
        topic = topics.expand(self.command_topic_template or "", device_id)
        return {**answer, "payload": payload, "packet_bytes": publish_bytes(topic, payload.encode())}

    def _render_command(self, action: str, params: dict[str, Any], *, device_id: str, command_id: str) -> str:
        """The payload of one command as it is sent; ``RenderingError``, also where it is too large for the device."""
        payload = RENDERER.payload(
            self.command_template or "",
            action=action,
            params=params,
            device_id=device_id,
            is_json=self.command_is_json,
            command_id=command_id if self.command_add_id else None,
        )
        if self.max_packet_bytes:
            topic = topics.expand(self.command_topic_template or "", device_id)
            packet_bytes = publish_bytes(topic, payload.encode())
            if packet_bytes > self.max_packet_bytes:
                raise packet_too_large(packet_bytes, self.max_packet_bytes)
        return payload

    @api.depends("device_ids")
    def _compute_device_count(self):
        groups = self.env["iiot.device"]._read_group([("profile_id", "in", self.ids)], ["profile_id"], ["__count"])
        counts = {profile.id: count for profile, count in groups}
        for profile in self:
            profile.device_count = counts.get(profile.id, 0)

    @api.depends("command_template", "command_is_json")
    def _compute_template_note(self):
        for profile in self:
            profile.template_problem = profile._template_problem()
            notes = []
            if not profile.template_problem:
                template, is_json = profile.command_template or "", profile.command_is_json
                for trial in (each for of_action in trials(RENDERER, template, is_json=is_json) for each in of_action):
                    if trial.error:
                        notes.append(profile._needs(trial))
            profile.template_note = "\n".join(notes)

    def _needs(self, trial) -> str:
        """What a trial that failed says of the parameters that an action needs."""
        if trial.kind == "missing":
            return _("Action %s needs its parameters.", trial.action)
        if trial.kind == "texts":
            return _("Action %s needs numbers as parameters.", trial.action)
        return _("Action %s needs texts as parameters.", trial.action)

    @api.depends("name")
    def _compute_preview_input(self):
        for profile in self:
            profile.preview_action = profile.preview_action or "reset"
            profile.preview_params = profile.preview_params or '{"delay": 5}'

    @api.depends(
        "preview_action",
        "preview_params",
        "command_template",
        "command_is_json",
        "command_add_id",
        "max_packet_bytes",
        "command_topic_template",
    )
    def _compute_preview_result(self):
        for profile in self:
            try:
                params = json_text.loads(profile.preview_params or "{}")
                if not isinstance(params, dict):
                    raise ValueError(_("not an object"))
            except ValueError as error:
                told = self.env["iiot.wording"]._told(error)
                profile.preview_result = _("Parameters must be a JSON object: %s", told)
                continue
            answer = profile.preview_command(profile.preview_action or "", params)
            line = _(" (line %s)", answer["line"]) if answer["line"] else ""
            profile.preview_result = answer["payload"] or f"{answer['error'] or ''}{line}"

    # --- what devices are told -------------------------------------------------------------------------------

    def _topic_templates(self) -> dict[str, str]:
        """All seven; the two of configuration as gateways have them by default."""
        own = {name: self[field] or "" for field, name in TOPIC_FIELDS.items()}
        return {**topics.GATEWAY_DEFAULTS, **own}

    def _wire_part(self) -> dict[str, Any]:
        """The part of a device's configuration that comes from its profile.

        Topics that are left as they are by default are not named: then the gateway's own setting counts.
        """
        self.ensure_one()
        own = {name: self[field] for field, name in TOPIC_FIELDS.items()}
        local = {"publish": _lines(self.local_publish), "subscribe": _lines(self.local_subscribe)}
        return {
            "topics": {name: text for name, text in own.items() if text and text != topics.DEFAULTS[name]},
            "settings": json_text.loads(self.settings or "{}"),
            "command_template": self.command_template,
            "command_is_json": self.command_is_json,
            "command_add_id": self.command_add_id,
            "command_expires_in_s": self.command_expires_in_s,
            "command_response_limit_s": self.command_response_limit_s,
            "max_packet_bytes": self.max_packet_bytes or None,
            "local_topics": local if local["publish"] or local["subscribe"] else None,
        }

    def write(self, vals):
        told = {profile: profile._wire_part() for profile in self}
        done = super().write(vals)
        changed = self.filtered(lambda profile: profile._wire_part() != told[profile])
        if changed:
            # those of all companies, also where the writer does not see them
            changed.sudo().with_context(active_test=False).device_ids._count_config_up()
        return done

    @api.ondelete(at_uninstall=False)
    def _unlink_except_used(self):
        if self.sudo().device_ids:
            raise UserError(_("Devices use this template. Archive it, or give them another one first."))


def _lines(text: str | bool | None) -> list[str]:
    return [line.strip() for line in (text or "").splitlines() if line.strip()]
