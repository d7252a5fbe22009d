import ipaddress
import json
import ssl
import threading
from contextlib import contextmanager
from datetime import datetime, timedelta, timezone
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from tempfile import TemporaryDirectory
from unittest.mock import patch

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from odoo.tools import mute_logger

from ..lib import calls
from ..models import push
from .device_case import DeviceCase

KEY = "key-of-the-appliance"


class Appliance(ThreadingHTTPServer):
    """Answers what the test wants, and keeps what came."""

    daemon_threads = True

    def __init__(self, certificate=None):
        super().__init__(("127.0.0.1", 0), _Handler)
        self.requests = []
        self.answer = (202, {"state": "queued"})
        self.answers = []
        if certificate:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(certificate)
            self.socket = context.wrap_socket(self.socket, server_side=True)
        scheme = "https" if certificate else "http"
        self.url = f"{scheme}://127.0.0.1:{self.server_port}"

    def handle_error(self, request, client_address):
        """A client that does not like the certificate is no error of the test."""


class _Handler(BaseHTTPRequestHandler):
    def do_POST(self):
        content = self.rfile.read(int(self.headers["Content-Length"]))
        self.server.requests.append((self.path, self.headers["Authorization"], json.loads(content)))
        status, document = self.server.answers.pop(0) if self.server.answers else self.server.answer
        body = document if isinstance(document, bytes) else json.dumps(document).encode()
        self.send_response(status)
        if 300 <= status < 400:
            self.send_header("Location", self.server.url + "/elsewhere")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *args):
        """Nothing."""


@contextmanager
def appliance(certificate=None):
    server = Appliance(certificate)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def certificate(folder, name):
    """A certificate for 127.0.0.1 that is its own authority: file with key, and PEM."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    now = datetime.now(timezone.utc)
    built = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    pem = built.public_bytes(serialization.Encoding.PEM)
    secret = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    file = Path(folder) / f"{name}.pem"
    file.write_bytes(pem + secret)
    return file, pem.decode()


class TestCalls(DeviceCase):
    def post(self, url, **changed):
        return calls.post(url, "/api/v1/sync", **{"key": KEY, "ca_pem": None, "body": {"a": "ü"}, **changed})

    def test_a_call_carries_the_key_and_json(self):
        with appliance() as server:
            reply = self.post(server.url + "/")
        self.assertEqual(server.requests, [("/api/v1/sync", f"Bearer {KEY}", {"a": "ü"})])
        self.assertTrue(reply.ok)

    def test_only_the_authority_of_the_appliance_is_trusted(self):
        with TemporaryDirectory() as folder:
            own, own_pem = certificate(folder, "own")
            _other, other_pem = certificate(folder, "other")
            with appliance(own) as server:
                self.assertTrue(self.post(server.url, ca_pem=own_pem).ok)
                for pem in (other_pem, None, "no certificate"):
                    reply = self.post(server.url, ca_pem=pem)
                    self.assertEqual((reply.ok, reply.final, reply.reached), (False, False, False))
                self.assertEqual(len(server.requests), 1)

    def test_a_refusal_with_a_code_is_final_and_nothing_else_is(self):
        with appliance() as server:
            for status, document, final in (
                (404, {"code": "unknown_device", "detail": "no device"}, True),
                (422, {"code": "command_too_large"}, True),
                (409, {"code": "device_disabled"}, True),
                (404, {"detail": "no code"}, False),
                (404, b"<html>", False),
                (429, {"code": "queue_full"}, False),
                (401, {"code": "unauthorized"}, False),
                (403, {"code": "insufficient_scope"}, False),
                (503, {"code": "store_unavailable"}, False),
                (200, b"[" * 200_000, False),
            ):
                server.answer = (status, document)
                reply = self.post(server.url)
                self.assertEqual((reply.final, reply.status), (final, status))

    def test_a_redirect_is_not_followed(self):
        with appliance() as server:
            server.answer = (307, b"")
            self.assertEqual(self.post(server.url).status, 307)
            self.assertEqual(len(server.requests), 1)

    def test_an_address_that_leads_nowhere_is_no_exception(self):
        for url in (
            "http://127.0.0.1:1",
            "ftp://127.0.0.1",
            "nonsense",
            "http://[",
            "http://127.0.0.1:99999",
            "https://",
        ):
            with self.subTest(url):
                reply = self.post(url)
                self.assertEqual((reply.ok, reply.final), (False, False))

    def test_an_appliance_that_says_nothing_is_given_up(self):
        with appliance() as server, patch.object(calls, "READ_S", 0.2):
            hold = threading.Event()
            with patch.object(_Handler, "do_POST", lambda handler: hold.wait(30)):
                reply = self.post(server.url)
            hold.set()
        self.assertEqual((reply.ok, reply.final, reply.reached), (False, False, True))


class TestPush(DeviceCase):
    def setUp(self):
        super().setUp()
        self.told_people = []
        bus = type(self.env["bus.bus"])
        self.patch(bus, "_sendone", lambda model, *args: self.told_people.append(args))
        self.patch(type(self.env["iiot.push"]), "_commit", lambda model: model.env.flush_all())
        self.env = self.env(context={**self.env.context, push.IN_TESTS: True})

    @contextmanager
    def reachable(self):
        with appliance() as server:
            self.gateway.write({"api_url": server.url, "api_key": KEY})
            yield server

    def run_queue(self):
        """What the thread does after the commit, here and now."""
        queue = self.env.cr.postcommit.data.pop("iiot.push", {})
        self.env.cr.postcommit.clear()
        for gateway_id, orders in queue.items():
            self.env["iiot.push"]._call(gateway_id, list(orders), self.user.id)
        return queue

    def send(self, devices, action="reset"):
        return self.env["iiot.device"].browse(devices.ids).with_user(self.user).send_command(action)

    def test_without_an_address_nothing_is_called(self):
        command = self.send(self.paired())
        self.assertEqual((self.run_queue(), command.offered), ({}, False))

    def test_a_command_is_handed_over_and_stays_queued_until_the_appliance_tells(self):
        device = self.paired()
        with self.reachable() as server:
            command = self.send(device)
            self.assertTrue(command.offered, "from now on it cannot be taken back here alone")
            self.run_queue()
        ((path, authorization, body),) = server.requests
        self.assertEqual((path, authorization), ("/api/v1/command/send", f"Bearer {KEY}"))
        (offered,) = self.env["iiot.command"]._offer(self.gateway, 5)["commands"]
        self.assertEqual({**body, "expires_in_s": 0}, {**offered, "expires_in_s": 0}, "a repeat must be known as one")
        self.assertEqual((command.state, command.waiting), ("queued", True))
        self.assertEqual(self.told_people, [], "it has not ended")

    def press(self, devices):
        """The button; what it sent."""
        devices.with_user(self.user).with_context(**self.env.context).action_send_reset()
        return self.env["iiot.command"].search([("device_id", "in", devices.ids)], limit=len(devices))

    def test_whoever_pressed_the_button_is_told_once_how_it_ended(self):
        device = self.paired()
        automatic = self.send(device)
        done = self.press(device)
        answer = {"command_id": done.command_id, "status": "ok"}
        self.take_states(
            self.state(automatic, "done"), self.state(done, "delivered"), self.told(device, "command_response", answer)
        )
        ((partner, kind, notice),) = self.told_people
        self.assertEqual((partner, kind), (self.user.partner_id, "simple_notification"))
        self.assertEqual((notice["type"], notice["message"]), ("success", f"reset → {device.name}: Done"))
        self.take_states(self.told(device, "command_response", answer))
        self.assertEqual(len(self.told_people), 1)
        failed = self.press(device)
        answer = {"command_id": failed.command_id, "status": "error", "error": "it is hot"}
        self.take_states(self.told(device, "command_response", answer))
        notice = self.told_people[1][2]
        self.assertEqual(notice["type"], "warning")
        self.assertEqual(notice["message"], f"reset → {device.name}: Failed: The device says: it is hot")

    def test_what_nobody_fetched_is_told_at_its_end_and_what_was_taken_back_is_not(self):
        device, other = self.paired(count=2)
        commands = self.press(device | other)
        commands.filtered(lambda command: command.device_id == other).with_user(self.user).action_cancel()
        commands.deadline = 1
        self.env.flush_all()
        self.env["iiot.command"]._offer(self.gateway, 5)
        ((_partner, _kind, notice),) = self.told_people
        self.assertEqual(notice["message"].count(": Expired: "), 1)
        self.assertIn(device.name, notice["message"])

    def test_of_many_that_end_at_once_a_few_are_named(self):
        commands = self.press(self.paired(count=push.MOST_TOLD + 3))
        self.take_states(*(self.state(command, "done") for command in commands))
        ((_partner, _kind, notice),) = self.told_people
        self.assertEqual(notice["message"].count("→"), push.MOST_TOLD)
        self.assertIn("and 3 more", notice["message"])

    def test_a_refusal_of_what_somebody_pressed_is_told_once(self):
        with self.reachable() as server:
            server.answer = (404, {"code": "unknown_device", "detail": "no device is paired"})
            self.press(self.paired())
            self.run_queue()
        ((_partner, _kind, notice),) = self.told_people
        self.assertIn("no device is paired", notice["message"])

    def test_a_refusal_with_a_code_ends_the_command_and_is_told(self):
        device = self.paired()
        with self.reachable() as server:
            server.answer = (404, {"code": "unknown_device", "detail": "no device is paired"})
            command = self.send(device)
            self.run_queue()
        self.assertEqual(
            (command.state, command.reason, command.detail), ("failed", "unknown_device", "no device is paired")
        )
        self.assertEqual(self.env["iiot.command"]._offer(self.gateway, 5)["commands"], [])
        self.assertEqual(self.told_people[0][2]["type"], "warning")

    def test_an_appliance_that_cannot_be_reached_fetches_the_command(self):
        device = self.paired()
        self.gateway.write({"api_url": "http://127.0.0.1:1", "api_key": KEY})
        command = self.send(device)
        self.run_queue()
        self.assertEqual((command.state, command.offered), ("queued", False))
        self.assertTrue(command.problem)
        self.assertTrue(self.env["iiot.command"]._has_new(self.gateway))

    def test_what_the_appliance_told_meanwhile_is_not_overwritten(self):
        device = self.paired()
        with self.reachable() as server:
            server.answer = (409, {"code": "command_id_conflict"})
            command = self.send(device)

            def told(*args, **kwargs):
                self.take_states(self.state(command, "sent", delivery=1))
                return calls.Reply(409, "command_id_conflict")

            with patch.object(push, "post", told):
                self.run_queue()
        self.assertEqual(command.state, "sent")

    def test_more_than_ten_become_one_nudge(self):
        devices = self.paired(count=11)
        with self.reachable() as server:
            commands = self.send(devices)
            self.run_queue()
            self.assertEqual([request[0] for request in server.requests], ["/api/v1/sync"])
        self.assertEqual(set(commands.mapped("offered")), {False})
        self.assertTrue(self.env["iiot.command"]._has_new(self.gateway))
        self.assertEqual(len(self.env["iiot.command"]._offer(self.gateway, 500)["commands"]), 11)

    def test_many_single_commands_of_one_transaction_become_one_nudge_too(self):
        with self.reachable() as server:
            for device in self.paired(count=12):
                self.send(device)
            self.run_queue()
            self.assertEqual([request[0] for request in server.requests], ["/api/v1/sync"])

    def test_each_gateway_gets_its_own(self):
        other = self.make_gateway("Line 2")
        with self.reachable() as one, appliance() as two:
            other.write({"api_url": two.url, "api_key": "other-key"})
            devices = self.paired() | self.paired(gateway_id=other.id)
            self.send(devices)
            self.run_queue()
        self.assertEqual([request[2]["device_id"] for request in one.requests], [devices[0].device_id])
        self.assertEqual([request[1] for request in two.requests], ["Bearer other-key"])

    def test_taking_back_what_the_appliance_may_have_is_a_nudge(self):
        with self.reachable() as server:
            command = self.send(self.paired())
            self.run_queue()
            command.action_cancel()
            self.run_queue()
        self.assertEqual([request[0] for request in server.requests], ["/api/v1/command/send", "/api/v1/sync"])
        self.assertEqual(command.state, "queued")

    def test_an_update_is_handed_over_too(self):
        firmware = self.env["iiot.firmware"].create({"version": "2", "url": "https://files.example.com/f"})
        update = self.env["iiot.update"].create({"device_id": self.paired().id, "firmware_id": firmware.id})
        with self.reachable() as server:
            update.action_start()
            self.run_queue()
            ((path, _key, body),) = server.requests
            self.assertEqual(path, "/api/v1/ota/send")
            self.assertEqual(self.env["iiot.update"]._offer(self.gateway, 5)["updates"], [body])
            self.assertEqual(update.state, "waiting")
            refused = self.env["iiot.update"].create({"device_id": self.paired().id, "firmware_id": firmware.id})
            server.answer = (422, {"code": "firmware_too_large", "detail": "too large"})
            refused.action_start()
            self.run_queue()
        self.assertEqual((refused.state, refused.error), ("failed", "firmware_too_large: too large"))

    def test_a_copy_of_the_database_calls_nobody(self):
        with self.reachable() as server:
            self.gateway.database_uuid = "another"
            self.send(self.paired())
            self.gateway.database_uuid = False
            self.gateway.is_enabled = False
            self.send(self.paired())
            self.assertEqual((self.run_queue(), server.requests), ({}, []))

    def test_in_tests_nothing_is_called_unless_it_is_asked_for(self):
        self.env = self.env(context={**self.env.context, push.IN_TESTS: False})
        with self.reachable():
            self.send(self.paired())
            self.assertEqual(self.run_queue(), {})

    def test_a_button_does_not_wait_and_threads_are_few(self):
        started = []

        class Thread:
            def __init__(self, *, target, args, name, daemon):
                started.append((args[3], daemon))

            def start(self):
                """Stands for one that runs for ever."""

        taken = 0
        try:
            with self.reachable(), patch.object(push.threading, "Thread", Thread):
                for _number in range(push.MOST_THREADS + 2):
                    self.send(self.paired())
                    self.env.cr.postcommit.run()
                taken = len(started)
        finally:
            for _number in range(taken):
                push._free_threads.release()
        self.assertEqual(taken, push.MOST_THREADS)
        self.assertTrue(all(daemon for _orders, daemon in started))

    def test_a_thread_that_fails_gives_its_place_back_and_the_appliance_fetches(self):
        for _number in range(push.MOST_THREADS):
            self.assertTrue(push._free_threads.acquire(blocking=False))
        for _number in range(push.MOST_THREADS):
            with mute_logger(push.__name__):
                push._run("no_such_database_here", self.user.id, {}, {self.gateway.id: []})
        self.assertTrue(push._free_threads.acquire(blocking=False))
        push._free_threads.release()
