import re
from unittest.mock import patch

import psycopg2
from odoo.exceptions import AccessError, UserError, ValidationError
from odoo.tests import Form, tagged
from odoo.tools import mute_logger

from ..models.iiot_telemetry_rule_plan import is_forbidden
from .telemetry_case import TelemetryCase

ADMIN = "industrial_iot.group_iiot_admin"


@tagged("post_install", "-at_install")
class TestRule(TelemetryCase):
    def applied(self, rule, device=None):
        domain = [("rule_id", "=", rule.id), ("device_id", "=", (device or self.device).id)]
        return self.env["iiot.telemetry.rule.applied"].search(domain)

    def test_a_value_goes_to_the_field_of_the_business_record_in_the_name_of_the_author(self):
        user = self.user_in("author", groups=f"{ADMIN},base.group_partner_manager")
        rule = self.make_rule(author=user)
        self.take(self.message({"temperature": 7.4}))
        self.assertEqual((self.partner().color, self.partner().write_uid), (7, user))
        self.assertEqual(self.applied(rule).at, self.device.last_telemetry)
        self.assertEqual((rule.author_id, rule.failures, rule.last_error), (user, 0, False))

    def test_telemetry_writes_no_chatter(self):
        self.make_rule("name", "$.name")
        before = len(self.partner().message_ids)
        self.take(self.message({"name": "New name"}))
        self.env["mail.thread"].flush_model()
        self.env.cr.flush()
        self.assertEqual((self.partner().name, len(self.partner().message_ids)), ("New name", before))

    def test_a_reading_without_the_value_changes_nothing(self):
        rule = self.make_rule()
        self.take(self.message({"pressure": 5}), self.message(5), self.message([{"temperature": 3}]))
        self.assertEqual((self.partner().color, rule.failures, len(self.applied(rule))), (0, 0, 0))

    def test_late_readings_never_overwrite_newer_ones(self):
        self.make_rule()
        self.take(self.message({"temperature": 5}, at=10))
        self.take(self.message({"temperature": 4}, at=9))
        self.assertEqual(self.partner().color, 5)
        self.take(self.message({"temperature": 6}, at=10))
        self.assertEqual(self.partner().color, 6)

    def test_what_is_late_is_judged_for_each_rule_and_device_by_itself(self):
        self.make_rule(), self.make_rule("partner_latitude", "$.latitude")
        self.take(self.message({"temperature": 5}, at=10))
        self.take(self.message({"temperature": 4, "latitude": 1.5}, at=9))
        self.take(self.message({"temperature": 3}, device=self.devices[1], at=8))
        self.assertEqual((self.partner().color, self.partner().partner_latitude), (5, 1.5))
        self.assertEqual(self.partner(self.devices[1]).color, 3)

    def test_of_the_same_time_the_later_number_wins_in_any_order(self):
        self.make_rule()
        self.take(self.message({"temperature": 5}, seq=5_000_000_002))
        self.take(self.message({"temperature": 4}, seq=5_000_000_001))
        self.assertEqual(self.partner().color, 5)

    def test_each_record_is_written_once_for_each_batch(self):
        self.make_rule(), self.make_rule("partner_latitude", "$.latitude")
        partners = type(self.env["res.partner"])
        writes, write = [], partners.write

        def counted(records, vals):
            writes.append((records.ids, sorted(vals)))
            return write(records, vals)

        messages = [
            self.message({"temperature": n, "latitude": n + 0.5}, device=device, at=n)
            for n in range(1, 11)
            for device in self.devices[:2]
        ]
        with patch.object(partners, "write", counted):
            self.take(*messages)
        ids = [device.business_ref.id for device in self.devices[:2]]
        self.assertEqual(sorted(writes), sorted(([id_], ["color", "partner_latitude"]) for id_ in ids))
        self.assertEqual((self.partner().color, self.partner().partner_latitude), (10, 10.5))

    def test_an_equal_value_is_written_only_where_the_rule_says_so(self):
        rule = self.make_rule()
        self.partner().color = 5
        partners = type(self.env["res.partner"])
        with patch.object(partners, "write", autospec=True, side_effect=AssertionError):
            self.take(self.message({"temperature": 5}))
        self.assertEqual(rule.failures, 0)
        rule.with_user(self.author).only_changed = False
        with patch.object(partners, "write", autospec=True, return_value=True) as write:
            self.take(self.message({"temperature": 5}))
        self.assertEqual(write.call_count, 1)

    def test_factor_offset_and_rounding(self):
        self.make_rule("partner_latitude", factor=0.1, offset=-1, rounding=0.25)
        self.take(self.message({"temperature": "34.4"}))
        self.assertEqual(self.partner().partner_latitude, 2.5)

    def test_a_link_is_found_by_name_or_number(self):
        rule = self.make_rule("country_id", "$.country")
        for value in ("Austria", self.env.ref("base.be").id):
            self.take(self.message({"country": value}))
            self.assertIn(value, (self.partner().country_id.name, self.partner().country_id.id))
        self.take(self.message({"country": "Nowhere"}), self.message({"country": 2_000_000}, device=self.devices[1]))
        self.assertEqual((self.partner().country_id, rule.failures), (self.env.ref("base.be"), 2))

    def test_the_newest_usable_value_counts_and_the_unusable_one_is_an_error(self):
        rule = self.make_rule()
        self.take(self.message({"temperature": 5}, at=1), self.message({"temperature": "hot"}, at=2))
        self.assertEqual((self.partner().color, rule.failures), (5, 1))
        self.assertIn("hot", rule.last_error)
        rule.with_user(self.author).action_forget_errors()
        self.assertEqual((rule.failures, rule.last_error), (0, False))

    def test_a_rule_that_fails_stops_no_other_rule_and_no_other_record(self):
        self.env.cr.execute("ALTER TABLE res_partner ADD CONSTRAINT bad_name CHECK (name <> 'Bad')")
        name, color = self.make_rule("name", "$.name"), self.make_rule()
        with mute_logger("odoo.sql_db"):
            self.take(
                self.message({"name": "Bad", "temperature": 5}),
                self.message({"name": "Good", "temperature": 6}, device=self.devices[1]),
            )
        self.assertEqual((self.partner().name, self.partner().color), ("Partner 1", 5))
        self.assertEqual((self.partner(self.devices[1]).name, self.partner(self.devices[1]).color), ("Good", 6))
        self.assertEqual((name.failures, color.failures), (1, 0))
        self.assertEqual(self.telemetry.search_count([("device_id", "in", self.devices.ids)]), 2)

    def test_a_conflict_with_another_transaction_is_no_error_of_the_rule(self):
        self.make_rule()
        conflict = psycopg2.errors.SerializationFailure("could not serialize access")
        partners = type(self.env["res.partner"])
        with patch.object(partners, "write", side_effect=conflict), self.assertRaises(type(conflict)):
            self.take(self.message({"temperature": 5}))

    def test_a_record_that_is_gone_is_an_error_of_the_rule(self):
        rule = self.make_rule()
        self.partner().unlink()
        self.take(self.message({"temperature": 5}), self.message({"temperature": 6}, device=self.devices[1]))
        self.assertEqual((rule.failures, self.partner(self.devices[1]).color), (1, 6))
        self.assertIn("does not exist", rule.last_error)

    def test_a_device_without_a_record_or_with_one_of_another_kind_is_left_alone(self):
        rule = self.make_rule()
        self.devices[0].business_ref = False
        self.devices[1].business_ref = f"res.country,{self.env.ref('base.be').id}"
        self.take(*(self.message({"temperature": 5}, device=device) for device in self.devices))
        self.assertEqual((self.partner(self.devices[2]).color, rule.failures), (5, 0))

    def test_a_domain_finds_the_record_by_what_is_known_of_the_device(self):
        self.make_rule(record_by="domain", domain="[('ref', '=', device.serial_number)]")
        partner = self.env["res.partner"].create({"name": "By domain", "ref": "SN-2"})
        self.take(self.message({"temperature": 5}), self.message({"temperature": 6}, device=self.devices[1]))
        self.assertEqual(partner.color, 6)

    def test_a_domain_with_the_value_concerns_each_reading(self):
        self.make_rule("color", "$.scan", record_by="domain", domain="[('color', '=', int(value) - 1)]")
        partners = self.env["res.partner"].create([{"name": f"Color {n}", "color": 1000 * n} for n in (1, 2)])
        self.take(self.message({"scan": 1001}, at=1), self.message({"scan": 2001}, at=2))
        self.assertEqual(partners.mapped("color"), [1001, 2001])

    def test_domains_of_many_devices_are_searched_at_once(self):
        self.make_rule(record_by="domain", domain="[('ref', '=', device.serial_number), ('type', '=', 'contact')]")
        devices = self.devices | self.make_devices(40, first=10)
        refs = [device.serial_number for device in devices]
        partners = self.env["res.partner"].create([{"name": f"By {ref}", "ref": ref} for ref in refs])

        def batch(few, at):
            return [self.message({"temperature": at + n}, device=device, at=at) for n, device in enumerate(few)]

        self.take(*batch(devices, 1))
        self.assertEqual(partners.mapped("color"), list(range(1, 44)))
        with patch.object(type(self.env["res.partner"]), "write", lambda self, vals: True):
            few = self.count_queries(lambda: self.take(*batch(devices[:3], 2)))
            many = self.count_queries(lambda: self.take(*batch(devices, 3)))
        self.assertLessEqual(many, few + 2)

    def test_searches_at_once_find_what_each_finds_by_itself(self):
        self.make_rule(record_by="domain", domain="[('ref', '=', device.serial_number)]")
        crowd = self.env["res.partner"].create([{"name": f"Crowd {n}", "ref": "SN-1"} for n in range(101)])
        pair = self.env["res.partner"].create([{"name": f"Pair {n}", "ref": "SN-2"} for n in range(2)])
        self.take(*(self.message({"temperature": 5}, device=device) for device in self.devices))
        self.assertEqual((set(crowd.mapped("color")), pair.mapped("color")), ({0}, [5, 5]))

    def test_a_domain_that_finds_too_many_records_writes_none(self):
        rule = self.make_rule(record_by="domain", domain="[('name', 'like', 'Crowd')]")
        crowd = self.env["res.partner"].create([{"name": f"Crowd {n}"} for n in range(101)])
        self.take(self.message({"temperature": 5}))
        self.assertEqual((set(crowd.mapped("color")), rule.failures), ({0}, 1))

    def test_a_domain_that_fails_for_one_device_is_an_error_of_that_device_alone(self):
        rule = self.make_rule(record_by="domain", domain="[('color', '=', int(device.name))]")
        self.devices[1].name = "77"
        partner = self.env["res.partner"].create({"name": "By number", "color": 77})
        self.take(self.message({"temperature": 5}), self.message({"temperature": 6}, device=self.devices[1]))
        self.assertEqual((partner.color, rule.failures), (6, 1))

    def test_of_two_rules_for_one_field_the_later_in_sequence_wins(self):
        self.make_rule(path="$.a", sequence=20), self.make_rule(path="$.b", sequence=10)
        self.take(self.message({"a": 1, "b": 2}))
        self.assertEqual(self.partner().color, 1)

    def test_an_archived_rule_does_not_run(self):
        rule = self.make_rule()
        rule.with_user(self.author).active = False
        self.take(self.message({"temperature": 5}))
        self.assertEqual(self.partner().color, 0)

    def test_rules_are_compiled_once_and_anew_when_they_change(self):
        rule = self.make_rule()
        self.take(self.message({"temperature": 5}))
        with patch.object(type(rule), "search", side_effect=AssertionError("read again")):
            self.take(self.message({"temperature": 6}))
        rule.with_user(self.author).factor = 2
        self.take(self.message({"temperature": 6}))
        self.assertEqual(self.partner().color, 12)
        rule.with_user(self.author).unlink()
        self.take(self.message({"temperature": 7}))
        self.assertEqual(self.partner().color, 12)


@tagged("post_install", "-at_install")
class TestRuleRights(TelemetryCase):
    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.user = cls.user_in("author", groups=f"{ADMIN},base.group_partner_manager")

    def remove_group(self, user, group):
        group = self.env.ref(group)
        user.write({"group_ids" if "group_ids" in user._fields else "groups_id": [(3, group.id)]})

    def test_whoever_edits_a_rule_is_its_author(self):
        rule = self.make_rule(author=self.author)
        rule.with_user(self.user).write({"factor": 2, "author_id": self.author.id})
        self.assertEqual(rule.author_id, self.user)
        copy = rule.with_user(self.author).copy()
        self.assertEqual(copy.author_id, self.author)

    def test_the_superuser_cannot_be_an_author(self):
        with self.assertRaises(ValidationError):
            self.make_rule(author=self.env.ref("base.user_root"))

    def test_paths_and_domains_that_are_not_offered_are_refused(self):
        for path in ("", "$..x", "$.[", "$.a[?(@.b =~ 'x')]", "$.a.`len`", "$.a + 1", "$" + ".a" * 200):
            with self.assertRaises(ValidationError, msg=path):
                self.make_rule(path=path)
        for domain in (
            *("", "[]", "[('name', '=', device.unlink())]", "[('name', '=', 'x' * 10)]", "[x for x in [1]]", "value"),
            *("[('no_field', '=', 1)]", "[('country_id.nothing', '=', 1)]", "[('name', 'no operator', 1)]"),
            *("[('name', '=', device.__class__)]", "[('name', '=', env)]", "(lambda: 1)()", "[('id', '=', 2 ** 9)]"),
        ):
            with self.assertRaises(ValidationError, msg=domain):
                self.make_rule(record_by="domain", domain=domain)

    def test_forbidden_targets_are_refused_whoever_asks(self):
        for model, field in (
            *(
                ("res.users", "login"),
                ("res.users", "signature"),
                ("res.groups", "name"),
                ("ir.config_parameter", "value"),
            ),
            *(("ir.cron", "active"), ("ir.rule", "domain_force"), ("iiot.device", "name"), ("res.company", "name")),
            *(
                ("iiot.telemetry.rule", "name"),
                ("iiot.gateway", "name"),
                ("mail.message", "body"),
                ("ir.attachment", "name"),
            ),
            *(("res.partner", "display_name"), ("res.partner", "create_date"), ("res.partner", "id")),
            *(("res.partner", "category_id"), ("res.partner", "image_1920"), ("res.partner", "commercial_partner_id")),
        ):
            with self.assertRaises(ValidationError, msg=f"{model}.{field}"):
                self.make_rule(field, model=model)

    def test_a_model_that_inherits_from_a_forbidden_one_lends_none_of_its_fields(self):
        for model in self.env.registry.values():
            for field in model._fields.values():
                if field.inherited and is_forbidden(self.env[field.related_field.model_name]) and not model._abstract:
                    if model._name == "iiot.device" or is_forbidden(self.env[model._name]):
                        continue
                    with self.assertRaises(ValidationError, msg=str(field)):
                        self.make_rule(field.name, model=model._name)
                    break

    def test_what_the_author_may_not_write_is_refused(self):
        self.remove_group(self.user, "base.group_partner_manager")
        with self.assertRaises(ValidationError):
            self.make_rule(author=self.user)

    def test_an_administrator_makes_a_rule_in_the_form_without_other_rights_than_to_the_target(self):
        model = self.env["ir.model"]._get("res.partner")
        form = Form(self.env["iiot.telemetry.rule"].with_user(self.user))
        form.name = "In the form"
        form.profile_id = self.profile
        form.target_model_id = model.with_user(self.user)
        form.target_field_id = self.env["ir.model.fields"]._get("res.partner", "color").with_user(self.user)
        form.record_by = "domain"
        form.domain = "[('ref', '=', device.serial_number)]"
        rule = form.save()
        self.assertEqual((rule.author_id, rule.target_field, rule.failures), (self.user, "color", 0))
        names = self.env["ir.model"].with_user(self.user).name_search("Contact")
        self.assertIn(model.id, [id_ for id_, _name in names])

    def test_users_without_the_administrators_group_make_no_rules(self):
        user = self.user_in("reader", groups="industrial_iot.group_iiot_user,base.group_partner_manager")
        with self.assertRaises(AccessError):
            self.make_rule(author=user)
        rule = self.make_rule()
        with self.assertRaises(AccessError):
            rule.with_user(user).action_forget_errors()

    def test_an_archived_author_pauses_the_rule_with_an_activity_until_somebody_saves_it(self):
        rule, other = self.make_rule(author=self.user), self.make_rule("partner_latitude", "$.temperature")
        self.user.active = False
        self.take(self.message({"temperature": 5}))
        self.assertEqual((self.partner().color, self.partner().partner_latitude), (0, 5))
        self.assertTrue(rule.paused_because)
        self.assertEqual((len(rule.activity_ids), rule.author_id), (1, self.user))
        self.take(self.message({"temperature": 6}))
        self.assertEqual((len(rule.activity_ids), len(other.activity_ids)), (1, 0))
        rule.with_user(self.author).name = "Mine now"
        self.take(self.message({"temperature": 7}))
        self.assertEqual((self.partner().color, rule.paused_because, rule.author_id), (7, False, self.author))

    def test_an_author_who_lost_the_right_pauses_the_rule(self):
        rule = self.make_rule(author=self.user)
        self.remove_group(self.user, "base.group_partner_manager")
        self.take(self.message({"temperature": 5}))
        self.assertEqual((self.partner().color, bool(rule.paused_because)), (0, True))

    def test_record_rules_of_the_author_hold_and_other_records_are_written(self):
        rule = self.make_rule(author=self.user)
        self.env["ir.rule"].create(
            {
                "name": "No first partner",
                "model_id": self.env["ir.model"]._get_id("res.partner"),
                "domain_force": "[('name', '!=', 'Partner 1')]",
                "perm_read": False,
            }
        )
        self.take(self.message({"temperature": 5}), self.message({"temperature": 6}, device=self.devices[1]))
        self.assertEqual((self.partner().color, self.partner(self.devices[1]).color, rule.failures), (0, 6, 1))

    def test_a_company_that_is_not_the_authors_is_none_of_its_business(self):
        rule = self.make_rule(author=self.user)
        company = self.env["res.company"].create({"name": "Elsewhere"})
        self.devices[1].company_id = company
        self.take(self.message({"temperature": 5}), self.message({"temperature": 6}, device=self.devices[1]))
        self.assertEqual((self.partner().color, self.partner(self.devices[1]).color, rule.failures), (5, 0, 1))

    def test_a_forbidden_target_is_refused_again_at_run_time(self):
        rule = self.make_rule()
        field = self.env["ir.model.fields"]._get("res.users", "login")
        self.env.cr.execute(
            "UPDATE iiot_telemetry_rule SET target_model_id = %s, target_field_id = %s WHERE id = %s",
            (field.model_id.id, field.id, rule.id),
        )
        self.env.invalidate_all()
        self.env.registry.clear_cache()
        self.device.business_ref = f"res.users,{self.user.id}"
        self.take(self.message({"temperature": "stolen"}))
        self.assertEqual((self.user.login, rule.failures), ("author", 1))


@tagged("post_install", "-at_install")
class TestPreview(TelemetryCase):
    def reading(self, payload, device="press-1", **values):
        return {"device_id": device, "payload": payload, **values}

    def preview(self, rule, *readings, user=None):
        """The lines of a preview that wrote nothing: neither at once nor when everything is flushed."""
        self.env.flush_all()
        statements, execute = [], type(self.env.cr).execute

        def watched(cursor, query, *args, **kwargs):
            statements.append(str(query))
            return execute(cursor, query, *args, **kwargs)

        with patch.object(type(self.env.cr), "execute", watched):
            lines = rule.with_user(user or self.author).preview(list(readings))
            self.env.flush_all()
        self.assertTrue(statements)
        changes = re.compile(r"\W*(SQL\W+)?(INSERT|UPDATE|DELETE|WITH)\b|.*\b(NEXTVAL|FOR (NO KEY )?UPDATE)\b", re.S)
        self.assertFalse([text for text in statements if changes.match(text.upper())])
        return lines

    def test_it_says_what_would_be_written_where_and_writes_nothing(self):
        rule = self.make_rule(factor=2)
        self.partner().color = 1
        (line,) = self.preview(rule, self.reading({"temperature": 5}))
        partner = self.partner()
        self.assertEqual((line["matched"], line["value"], line["old"], line["new"]), (True, 5, 1, 10))
        self.assertEqual((line["model"], line["record_id"], line["field"]), ("res.partner", partner.id, "color"))
        self.assertEqual((line["record"], line["writes"], line["note"]), ("Partner 1", True, ""))
        self.assertEqual((partner.color, rule.failures), (1, 0))

    def test_it_says_why_nothing_would_be_written(self):
        rule = self.make_rule()
        self.take(self.message({"temperature": 5}, at=10))
        notes = [
            line["note"]
            for line in self.preview(
                rule,
                self.reading({"pressure": 5}),
                self.reading({"temperature": "hot"}),
                self.reading({"temperature": 5}),
                self.reading({"temperature": 6}, at="2026-11-22T12:09:00Z"),
                self.reading({"temperature": 6}, device="nobody"),
                self.reading({"temperature": 6}, at="yesterday"),
                5,
            )
        ]
        words = (
            "finds nothing",
            "not a number",
            "already",
            "newer reading",
            "no such device",
            "not an RFC",
            "not a reading",
        )
        for word, note in zip(words, notes, strict=True):
            self.assertIn(word, note)
        self.assertEqual(rule.failures, 0)

    def test_a_rule_that_cannot_run_says_so(self):
        rule = self.make_rule()
        self.partner().unlink()
        (line,) = self.preview(rule, self.reading({"temperature": 5}))
        self.assertIn("does not exist", line["note"])
        self.assertFalse(line["writes"])

    def test_it_takes_what_is_kept_of_a_device(self):
        rule = self.make_rule("partner_latitude", "$.latitude")
        self.take(*(self.message({"latitude": n + 0.5}, at=n) for n in range(3)))
        lines = rule.with_user(self.author).preview_history(self.device.id, limit=2)
        self.assertEqual([line["value"] for line in lines], [2.5, 1.5])

    def test_all_records_of_a_domain_are_listed(self):
        rule = self.make_rule(record_by="domain", domain="[('name', 'in', ['Partner 1', 'Partner 2'])]")
        lines = self.preview(rule, self.reading({"temperature": 5}))
        self.assertEqual([line["record"] for line in lines], ["Partner 1", "Partner 2"])

    def test_it_shows_only_what_the_one_who_asks_may_see(self):
        rule = self.make_rule()
        user = self.user_in("asker", groups=ADMIN)
        self.env["ir.rule"].create(
            {
                "name": "No partners",
                "model_id": self.env["ir.model"]._get_id("res.partner"),
                "groups": [(4, self.env.ref(ADMIN).id)],
                "domain_force": "[('name', '!=', 'Partner 1')]",
            }
        )
        (line,) = self.preview(rule, self.reading({"temperature": 5}), user=user)
        self.assertIsNone(line["old"])
        self.assertIsNone(line["record"])

    def test_too_many_readings_are_refused(self):
        with self.assertRaises(UserError):
            self.make_rule().with_user(self.author).preview([self.reading({})] * 201)
