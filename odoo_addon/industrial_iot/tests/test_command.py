import json
import time
from datetime import date, datetime, timedelta
from unittest.mock import patch

from markupsafe import Markup
from odoo import fields
from odoo.exceptions import AccessError, UserError
from odoo.tests import Form

from ..lib.rendering import publish_bytes
from .device_case import DeviceCase, now


class TestSending(DeviceCase):
    def test_the_examples_of_the_documents_send_what_they_say(self):
        device = self.paired()
        command = device.send_command("reset", delay=5)
        self.assertEqual((command.state, command.action, command.device_id), ("queued", "reset", device))
        payload = json.loads(command.payload)
        self.assertEqual(payload.pop("command_id"), command.command_id)
        self.assertEqual(payload, {"action": "reset", "params": {"delay": 5}})
        command = device.send_command("configure", threshold=25.5, mode="auto", duration=300)
        self.assertEqual(list(json.loads(command.payload)["params"]), ["threshold", "mode", "duration"])
        self.assertEqual(json.loads(command.params), {"threshold": 25.5, "mode": "auto", "duration": 300})

    def test_every_name_is_free_for_a_parameter(self):
        names = {
            "self": 1,
            "action": "other",
            "params": {"a": 1},
            "expires_in_s": 5,
            "deliver": "x",
            "cls": 2,
            "named": 3,
        }
        command = self.paired().send_command("x", action2="y", **names)
        self.assertEqual(json.loads(command.payload)["params"], {"action2": "y", **names})
        self.assertEqual(json.loads(command.payload)["action"], "x")

    def test_parameters_may_come_as_a_dictionary_also_one_named_context(self):
        command = self.paired().send_command("x", {"context": 1, "a b": 2}, c=3)
        self.assertEqual(json.loads(command.params), {"context": 1, "a b": 2, "c": 3})

    def test_options_come_by_the_context(self):
        device = self.paired().with_context(iiot_expires_in_s=2.5, iiot_deliver="at_most_once")
        before = time.time()
        command = device.send_command("stop", expires_in_s=99)
        self.assertEqual(command.deliver, "at_most_once")
        self.assertAlmostEqual(command.deadline, before + 2.5, delta=1)
        self.assertEqual(json.loads(command.params), {"expires_in_s": 99})
        for wrong in (0, -1, "5", True, 31 * 86_400, float("nan")):
            with self.subTest(wrong), self.assertRaises(UserError):
                device.with_context(iiot_expires_in_s=wrong).send_command("stop")
        with self.assertRaises(UserError):
            device.with_context(iiot_deliver="never").send_command("stop")

    def test_the_profile_says_how_long_a_command_is_good(self):
        self.profile.command_expires_in_s = 7
        self.assertAlmostEqual(self.paired().send_command("x").deadline, time.time() + 7, delta=2)

    def test_a_parameter_that_is_marked_as_finished_adds_no_key(self):
        self.profile.command_template = '{"to": "{{ params.to }}"}'
        evil = Markup('a", "admin": "1')
        command = self.paired().send_command("x", to=evil)
        self.assertEqual(json.loads(command.payload)["to"], str(evil))

    def test_times_are_written_for_machines_and_what_is_no_plain_value_is_refused(self):
        device = self.paired()
        command = device.send_command("x", at=datetime(2026, 11, 22, 10), day=date(2026, 11, 22), list=[(1, None)])
        self.assertEqual(
            json.loads(command.params), {"at": "2026-11-22T10:00:00.000Z", "day": "2026-11-22", "list": [[1, None]]}
        )
        for wrong in (device, object(), float("inf"), b"x", {1, 2}):
            with self.subTest(type(wrong)), self.assertRaises(UserError):
                device.send_command("x", value=wrong)

    def test_unicode_and_quotes_arrive_as_they_are(self):
        text = "重置 🔥 \"quoted\" 'single' \\ \n <&>"
        command = self.paired().send_command(text[:20], value=text)
        self.assertEqual(json.loads(command.payload)["params"], {"value": text})
        self.assertIn("重置", command.payload)

    def test_a_command_that_cannot_be_made_is_refused_and_none_is_sent(self):
        self.profile.write({"command_template": '{"delay": {{ params.delay }}}', "max_packet_bytes": 128})
        devices = self.paired(count=2)
        for params in ({}, {"delay": "soon"}, {"delay": "9" * 200}):
            with self.subTest(params), self.assertRaises(UserError):
                devices.send_command("x", **params)
        for action in ("", "x" * 129, 5, None):
            with self.assertRaises(UserError):
                devices.send_command(action)
        self.assertFalse(devices.command_ids)
        payload = devices[0].send_command("x", delay=1).payload
        self.assertLessEqual(publish_bytes(f"command/{devices[0].device_id}/action", payload.encode()), 128)

    def test_a_device_that_cannot_be_reached_at_all_has_a_failed_command_that_says_why(self):
        draft = self.env["iiot.device"].create({"serial_number": "SN-d", "profile_id": self.profile.id})
        off = self.paired()
        off.action_disable()
        commands = (draft | off).send_command("reset")
        self.assertEqual(commands.mapped("state"), ["failed", "failed"])
        self.assertEqual(commands.mapped("reason"), ["not_paired", "device_disabled"])
        self.assertFalse(any(commands.mapped("waiting")))
        self.assertEqual((draft | off).action_send_reset()["params"]["type"], "warning")

    def test_thousands_of_devices_take_few_queries(self):
        devices = self.paired(count=1000)
        self.env.invalidate_all()
        with self.assertQueryCount(60):
            commands = devices.send_command("status_check", interval=300)
            self.env.flush_all()
        self.assertEqual(len(commands), 1000)
        self.assertEqual(commands.device_id, devices)
        self.assertEqual(len(set(commands.mapped("command_id"))), 1000)

    def test_no_device_no_command(self):
        self.assertFalse(self.env["iiot.device"].send_command("reset"))

    # --- who may ---------------------------------------------------------------------------------------------

    def test_it_is_called_by_rpc_and_answers_with_ids(self):
        device = self.paired()
        result = self.call_rpc(self.user, "iiot.device", "send_command", [device.ids, "reset"], {"delay": 5})
        self.assertEqual(result, device.command_ids.ids)
        self.assertEqual(device.command_ids.user_id, self.user)
        result = self.call_rpc(self.user, "iiot.device", "send_command", [device.ids], {"action": "beep"})
        self.assertEqual(self.env["iiot.command"].browse(result).action, "beep")
        result = self.call_rpc(
            self.user, "iiot.device", "send_command", [device.ids, "x", {"context": 1}], {"context": {"lang": "en_US"}}
        )
        self.assertEqual(json.loads(self.env["iiot.command"].browse(result).params), {"context": 1})
        with self.assertRaises(AccessError):
            self.call_rpc(self.outsider, "iiot.device", "send_command", [device.ids, "reset"], {})

    def call_rpc(self, user, model, method, args, kwargs):
        from odoo import api

        self.env.flush_all()
        records = self.env(user=user)[model]
        if hasattr(api, "call_kw"):
            return api.call_kw(records, method, args, kwargs)
        from odoo.service.model import call_kw

        return call_kw(records, method, args, kwargs)

    def test_nobody_writes_makes_or_deletes_a_command_by_hand(self):
        command = self.paired().send_command("reset")
        for user in (self.user, self.admin):
            seen = command.with_user(user)
            self.assertEqual(seen.payload, command.payload)
            for change in (
                lambda seen=seen: seen.write({"payload": "{}"}),
                lambda seen=seen: seen.write({"state": "done"}),
                lambda seen=seen: seen.unlink(),
                lambda seen=seen: seen.create({"device_id": command.device_id.id, "action": "x"}),
                lambda seen=seen: seen.copy(),
            ):
                with self.assertRaises(AccessError):
                    change()

    def test_the_dialog_sends_what_was_typed(self):
        devices = self.paired(count=2)
        dialog = Form(self.env["iiot.command.dialog"].with_user(self.user).with_context(default_device_ids=devices.ids))
        dialog.action = "beep"
        dialog.as_json = True
        dialog.params = '{"times": 2}'
        record = dialog.save()
        record.expires_in_s = 5
        record.action_send()
        self.assertEqual(devices.command_ids.mapped("action"), ["beep", "beep"])
        self.assertAlmostEqual(devices[0].command_ids.deadline, time.time() + 5, delta=2)
        record.params = "{"
        with self.assertRaises(UserError):
            record.action_send()


class TestLife(DeviceCase):
    def offer(self, limit=500):
        return self.env["iiot.command"]._offer(self.gateway, limit)

    def ids(self, offer):
        return [each["command_id"] for each in offer["commands"]]

    # --- offered ---------------------------------------------------------------------------------------------

    def test_a_command_is_offered_as_it_was_rendered_until_the_appliance_tells_of_it(self):
        device = self.paired()
        command = device.send_command("reset", delay=5)
        model = self.env["iiot.command"]
        self.assertTrue(model._has_new(self.gateway))
        (offered,) = self.offer()["commands"]
        self.assertEqual(
            {**offered, "expires_in_s": 0},
            {
                "command_id": command.command_id,
                "device_id": device.device_id,
                "action": "reset",
                "payload": command.payload,
                "expires_in_s": 0,
                "deliver": "at_least_once",
            },
        )
        self.assertTrue(50 < offered["expires_in_s"] <= 60)
        self.assertFalse(model._has_new(self.gateway))
        self.assertEqual(self.ids(self.offer()), [command.command_id])
        self.take_states(self.state(command, "queued"))
        self.assertEqual(self.offer(), {"commands": [], "cancel_commands": [], "more": False})

    def test_other_gateways_are_offered_nothing(self):
        self.paired().send_command("reset")
        other = self.make_gateway("Line 2")
        self.assertFalse(self.env["iiot.command"]._has_new(other))
        self.assertEqual(self.env["iiot.command"]._offer(other, 500)["commands"], [])

    def test_each_devices_commands_are_in_order_and_none_keeps_the_others_waiting(self):
        stuck, other = self.paired(count=2)
        for number in range(5):
            stuck.send_command(f"a{number}")
        other.send_command("b")
        first = self.offer(limit=3)
        actions = [each["action"] for each in first["commands"]]
        self.assertEqual(actions, ["a0", "b", "a1"])
        self.assertTrue(first["more"])
        self.assertFalse(self.offer(limit=3)["more"], "nothing of it was new")
        self.assertEqual([each["action"] for each in self.offer()["commands"]], ["a0", "b", "a1", "a2", "a3", "a4"])

    def test_an_offer_has_a_size(self):
        device = self.paired()
        for number in range(6):
            device.send_command("big", text=str(number) * 100_000)
        offer = self.offer()
        self.assertTrue(0 < len(offer["commands"]) < 6)
        self.assertTrue(offer["more"])

    def test_what_nobody_fetched_in_time_has_expired(self):
        device = self.paired()
        command = device.with_context(iiot_expires_in_s=5).send_command("reset")
        later = time.time() + 6
        with patch("odoo.addons.industrial_iot.models.iiot_command_exchange.time.time", return_value=later):
            self.assertFalse(self.env["iiot.command"]._has_new(self.gateway))
            self.assertEqual(self.offer()["commands"], [])
        self.assertEqual((command.state, command.reason), ("expired", "not_fetched"))
        self.assertEqual([entry["state"] for entry in command.history], ["queued", "expired"])

    def test_what_was_offered_and_never_told_of_is_given_up_late_and_news_still_count(self):
        command = self.paired().with_context(iiot_expires_in_s=5).send_command("reset")
        self.offer()
        with patch("odoo.addons.industrial_iot.models.iiot_command_exchange.time.time", return_value=time.time() + 6):
            self.offer()
        self.assertEqual((command.state, command.waiting), ("queued", False))
        command.deadline -= 3700
        self.env["iiot.command"]._cron_conclude()
        self.assertEqual((command.state, command.reason), ("expired", "no_news"))
        self.take_states(self.state(command, "sent", delivery=1), self.state(command, "delivered"))
        self.assertEqual((command.state, command.concluded, command.late), ("delivered", False, False))

    def test_the_scheduled_action_ends_what_no_gateway_ever_fetches(self):
        command = self.paired().with_context(iiot_expires_in_s=1).send_command("reset")
        command.deadline -= 2
        self.env["iiot.command"]._cron_conclude()
        self.assertEqual((command.state, command.reason), ("expired", "not_fetched"))

    # --- told ------------------------------------------------------------------------------------------------

    def test_the_whole_life_of_a_command_is_kept_with_its_times(self):
        command = self.paired().send_command("reset")
        at = [now() + timedelta(seconds=second) for second in range(4)]
        answer = {"command_id": command.command_id, "status": "ok", "result": {"a": [1, "ü"]}}
        self.take_states(
            self.state(command, "queued", at=at[0]),
            self.state(command, "sent", at=at[1], delivery=1),
            self.state(command, "delivered", at=at[2]),
            self.told(command.device_id, "command_response", answer, at=at[3]),
            self.state(command, "done", at=at[3]),
        )
        self.assertEqual((command.state, command.deliveries, command.late), ("done", 1, False))
        self.assertEqual((command.sent_at, command.delivered_at, command.ended_at), tuple(at[1:]))
        self.assertEqual(json.loads(command.response), answer)
        self.assertEqual(
            [(entry["state"], entry["by"]) for entry in command.history],
            [
                *(("queued", "odoo"), ("queued", "appliance"), ("sent", "appliance"), ("delivered", "appliance")),
                ("done", "device"),
            ],
        )
        last = command.history_table["rows"][-1]["cells"]
        self.assertEqual(last[:3], [{"time": fields.Datetime.to_string(at[3])}, "Done", "Device"])
        self.assertIn("delivered", command.history_text)

    def test_an_answer_alone_moves_a_command_too(self):
        device = self.paired()
        for status, state, reason in (
            ("ok", "done", False),
            ("error", "failed", "device"),
            ("in_progress", "delivered", False),
        ):
            command = device.send_command("x")
            self.take_states(
                self.told(device, "command_response", {"command_id": command.command_id, "status": status})
            )
            self.assertEqual((command.state, command.reason), (state, reason))

    def test_what_a_device_said_first_stays(self):
        command = self.paired().send_command("x")
        self.take_states(self.state(command, "sent"), self.state(command, "done"))
        self.take_states(self.state(command, "failed", reason="no_ack"), self.state(command, "delivered"))
        self.assertEqual(command.state, "done")
        command = self.paired().send_command("x")
        self.take_states(self.state(command, "failed", reason="device"), self.state(command, "done"))
        self.assertEqual((command.state, command.reason), ("failed", "device"))

    def test_later_news_overrule_what_was_only_concluded(self):
        for end, members in (("expired", {}), ("failed", {"reason": "no_ack"}), ("failed", {"reason": "revoked"})):
            command = self.paired().send_command("x")
            self.take_states(self.state(command, "sent", delivery=1), self.state(command, end, **members))
            self.assertEqual(command.state, end)
            self.take_states(self.state(command, "done", late=True))
            self.assertEqual((command.state, command.late, command.reason), ("done", True, False))

    def test_a_delivery_that_was_not_written_is_counted_back(self):
        command = self.paired().send_command("x")
        self.take_states(self.state(command, "sent", delivery=1), self.state(command, "queued", reason="not_connected"))
        self.assertEqual((command.state, command.sent_at), ("queued", False))

    def test_a_refusal_of_the_appliance_is_told_in_words(self):
        command = self.paired().send_command("x")
        self.take_states(self.state(command, "failed", reason="unknown_device", detail="no device press is paired"))
        self.assertEqual((command.state, command.reason), ("failed", "unknown_device"))
        self.assertIn("no device press", command.reason_text)

    def test_why_a_device_refuses_is_told_in_its_own_words(self):
        for answer, words in (
            ({"error": "motor is hot"}, "The device says: motor is hot"),
            ({"result": {}, "error": {"message": "no such action"}}, "The device says: no such action"),
            ({}, "The device answered with an error."),
        ):
            command = self.paired().send_command("x")
            payload = {"command_id": command.command_id, "status": "error", **answer}
            self.take_states(self.told(command.device_id, "command_response", payload))
            self.assertEqual((command.state, command.reason_text), ("failed", words))

    def test_a_command_that_somebody_else_sent_has_a_row_of_its_own(self):
        device = self.paired()
        payload = {"command_id": "c-foreign", "state": "queued", "at": "2026-11-22T10:00:00.000Z"}
        self.take_states(self.told(device, "command_state", payload))
        self.take_states(
            self.told(device, "command_state", {**payload, "state": "done"}),
            self.told(device, "command_response", {"command_id": "c-foreign", "status": "ok"}),
        )
        command = device.command_ids
        self.assertEqual((command.command_id, command.origin, command.state), ("c-foreign", "appliance", "done"))
        self.assertEqual(command.user_id.id, False)
        with self.assertRaises(UserError):
            command.action_retry()

    def test_what_belongs_to_no_command_is_kept_as_a_report(self):
        device, other = self.paired(count=2)
        command = other.send_command("x")
        self.take_states(
            self.told(device, "command_response", {"status": "ok", "matched": False}),
            self.told(device, "command_response", {"command_id": "unknown", "status": "ok", "matched": False}),
            self.told(device, "command_state", {"msg_id": "1"}),
            self.told(device, "command_state", [1]),
            self.told(device, "command_state", {"command_id": "c 1", "state": "done"}),
            self.told(device, "command_state", {"command_id": command.command_id, "state": "done"}),
            self.told(device, "command_state", {"command_id": "c-2", "state": "melted"}),
        )
        reports = self.env["iiot.device.report"].search([("device_id", "=", device.id)], order="id")
        self.assertEqual(
            reports.mapped("reason"),
            [
                "no_command_id",
                "no_command",
                "no_command_id",
                "no_command_id",
                "no_command_id",
                "other_device",
                "no_state",
            ],
        )
        self.assertEqual(command.state, "queued")

    def test_five_hundred_messages_take_as_many_queries_as_fifty(self):
        commands = self.paired(count=500).send_command("x")
        messages = [self.state(command, "done") for command in commands]
        self.env.invalidate_all()
        counts = []
        for part in (messages[:50], messages):
            self.env.invalidate_all()
            before = self.env.cr.sql_log_count
            self.take_states(*part)
            self.env.flush_all()
            counts.append(self.env.cr.sql_log_count - before)
        self.assertLessEqual(counts[1], counts[0] + 20)
        self.assertEqual(set(commands.mapped("state")), {"done"})

    # --- taking back, sending again, keeping -----------------------------------------------------------------

    def test_what_nobody_has_fetched_is_taken_back_here(self):
        command = self.paired().send_command("x")
        command.with_user(self.user).action_cancel()
        self.assertEqual((command.state, command.reason), ("cancelled", "withdrawn"))
        self.assertEqual(self.offer(), {"commands": [], "cancel_commands": [], "more": False})

    def test_what_was_offered_stands_in_both_lists_until_the_appliance_tells(self):
        command = self.paired().send_command("x")
        self.offer()
        command.action_cancel()
        self.assertTrue(self.env["iiot.command"]._has_new(self.gateway))
        offer = self.offer()
        self.assertEqual((self.ids(offer), offer["cancel_commands"]), ([command.command_id], [command.command_id]))
        self.assertFalse(self.env["iiot.command"]._has_new(self.gateway))
        self.take_states(self.state(command, "queued"))
        offer = self.offer()
        self.assertEqual((self.ids(offer), offer["cancel_commands"]), ([], [command.command_id]))
        self.take_states(self.state(command, "cancelled"))
        self.assertEqual(self.offer()["cancel_commands"], [])

    def test_a_cancellation_ends_when_the_command_has_gone_out(self):
        command = self.paired().send_command("x")
        self.offer()
        command.action_cancel()
        self.take_states(self.state(command, "sent", delivery=1))
        self.assertEqual(self.offer()["cancel_commands"], [])

    def test_what_has_ended_is_not_taken_back(self):
        command = self.paired().send_command("x")
        self.take_states(self.state(command, "delivered"))
        with self.assertRaises(UserError):
            command.action_cancel()

    def test_sending_again_is_a_new_command_that_names_the_old(self):
        command = self.paired().with_context(iiot_deliver="at_most_once").send_command("x", z=1, a={"b": None})
        with self.assertRaises(UserError):
            command.action_retry()
        command.action_cancel()
        command.with_user(self.user).action_retry()
        retry = command.retry_ids
        self.assertEqual((retry.state, retry.action, retry.params), ("queued", "x", command.params))
        self.assertEqual((retry.user_id, retry.deliver), (self.user, "at_most_once"))
        self.assertNotEqual(retry.command_id, command.command_id)

    def test_outsiders_take_nothing_back(self):
        command = self.paired().send_command("x")
        for method in ("action_cancel", "action_retry"):
            with self.assertRaises(AccessError):
                getattr(command.with_user(self.outsider), method)()

    def test_switching_a_device_off_ends_what_waits_for_it(self):
        device = self.paired()
        command = device.send_command("x")
        device.action_disable()
        self.assertEqual((command.state, command.reason), ("cancelled", "device_disabled"))

    def test_commands_are_kept_unless_a_parameter_says_how_long(self):
        device = self.paired()
        old, young, running = device.send_command("a"), device.send_command("b"), device.send_command("c")
        (old | young).action_cancel()
        (old | running).queued_at = now() - timedelta(days=100)
        self.env["iiot.command"]._cron_remove_old()
        self.assertTrue(old.exists())
        self.env["ir.config_parameter"].set_param("iiot.command_days", "90")
        self.env["iiot.command"]._cron_remove_old()
        self.assertEqual((old | young | running).exists(), young | running)
