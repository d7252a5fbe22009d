"""Handing orders to an appliance at once, where Odoo can reach it. Pulling is the rule; this only makes it quicker.

After the commit a thread calls the appliance; no button waits for it. Whatever becomes of the thread, the order stays
as it is until more is known, and the appliance's next ``sync`` fetches it.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from typing import Any

from odoo import SUPERUSER_ID, _, api, fields, models, tools
from odoo.modules.registry import Registry

from ..lib.calls import Reply, post

_logger = logging.getLogger(__name__)
SEND_COMMAND, SEND_UPDATE, SYNC_SOON = "/api/v1/command/send", "/api/v1/ota/send", "/api/v1/sync"
MOST_SINGLE = 10
"""More orders than these in one transaction are fetched by the appliance, which is told to ask now."""
MOST_TOLD = 5
"""Lines of a notice."""
MOST_THREADS = 4
_free_threads = threading.BoundedSemaphore(MOST_THREADS)
_QUEUE = "iiot.push"
IN_TESTS = "iiot_push_in_tests"
"""Context: push although tests are running."""


class IiotPush(models.AbstractModel):
    """Collects what a transaction orders, and calls the appliances when it has been committed."""

    _name = "iiot.push"
    _description = "IIoT Push"

    @api.model
    def _add(self, gateway, model: str, ids: list[int]) -> bool:
        """Push these records to the gateway after the commit, or tell it to fetch; whether that will be tried."""
        if not gateway or not self._reaches(gateway):
            return False
        cr = self.env.cr
        queue = cr.postcommit.data.get(_QUEUE)
        if queue is None:
            queue = cr.postcommit.data[_QUEUE] = {}
            context = {IN_TESTS: True} if self.env.context.get(IN_TESTS) else {}
            cr.postcommit.add(_starter(cr.dbname, self.env.uid, context, queue))
        queue.setdefault(gateway.id, []).extend((model, record_id) for record_id in ids)
        return True

    @api.model
    def _nudge(self, gateways):
        """Tell these gateways, after the commit, that there is something to fetch."""
        for gateway in gateways:
            # more than can be pushed one by one, whatever else there is
            self._add(gateway, "", [0] * (MOST_SINGLE + 1))

    @api.model
    def _reaches(self, gateway) -> bool:
        """Whether there is an appliance to call: one with an address and a key, that belongs to this database."""
        gateway = gateway.sudo()
        testing = tools.config["test_enable"] or getattr(threading.current_thread(), "testing", False)
        if testing and not self.env.context.get(IN_TESTS):
            return False
        return bool(gateway.api_url and gateway.api_key and gateway._is_bound_here())

    @api.model
    def _call(self, gateway_id: int, orders: list[tuple[str, int]], user_id: int):
        """In a transaction of its own: read what to send, call without holding the database, write what came of it."""
        gateway = self.env["iiot.gateway"].browse(gateway_id).exists()
        if not gateway or not self._reaches(gateway):
            return
        access = {"key": gateway.api_key, "ca_pem": gateway.ca_pem or None}
        url = gateway.api_url
        if len(orders) > MOST_SINGLE:
            self._commit()
            post(url, SYNC_SOON, **access, body={})
            return
        told: list[tuple[str, str]] = []
        for model, record_id in orders:
            record = self.env[model].browse(record_id).exists()
            if not record or not record._is_to_push():
                continue
            path, body = record._push_request()
            self._commit()
            reply = post(url, path, **access, body=body)
            told.append(record._note_push(reply))
            self._commit()
        self._tell(user_id, told)
        self._commit()

    @api.model
    def _commit(self):
        """The thread's own transaction ends before each call: a slow appliance holds nothing of the database."""
        self.env.cr.commit()  # pylint: disable=invalid-commit  # the thread has it for itself

    @api.model
    def _tell(self, user_id: int, told: list[tuple[str, str]]):
        """A short notice to who ordered: the worst of what came of it."""
        shown = [each for each in told if each[1]]
        partner = self.env["res.users"].browse(user_id).partner_id
        if not shown or not partner:
            return
        kind = "warning" if any(each[0] == "warning" for each in shown) else "success"
        message = "\n".join(dict.fromkeys(each[1] for each in shown))
        self.env["bus.bus"]._sendone(
            partner, "simple_notification", {"type": kind, "title": _("Industrial IoT"), "message": message}
        )


def _starter(
    dbname: str, user_id: int, context: dict[str, Any], queue: dict[int, list[tuple[str, int]]]
) -> Callable[[], None]:
    """What runs after the commit: a thread that ends soon, if one is free; without it ``sync`` does the work."""

    def start():
        orders = {
            gateway: list(dict.fromkeys(records)) if records[0][0] else records for gateway, records in queue.items()
        }
        queue.clear()
        if orders and _free_threads.acquire(blocking=False):
            threading.Thread(
                target=_run, args=(dbname, user_id, context, orders), name="iiot-push", daemon=True
            ).start()

    return start


def _run(dbname: str, user_id: int, context: dict[str, Any], orders: dict[int, list[tuple[str, int]]]):
    try:
        for gateway_id, records in orders.items():
            with Registry(dbname).cursor() as cr:
                env = api.Environment(cr, SUPERUSER_ID, context)
                lang = env["res.users"].browse(user_id).lang
                env["iiot.push"].with_context(lang=lang)._call(gateway_id, records, user_id)
    except Exception:  # a thread's end is nobody's to see; the orders are fetched all the same
        _logger.warning("What was ordered could not be handed to an appliance, which will fetch it", exc_info=True)
    finally:
        _free_threads.release()


class IiotCommand(models.Model):
    _inherit = "iiot.command"

    tell_user = fields.Boolean(
        readonly=True, help="Somebody pressed a button for it, and has not been told yet how it ended."
    )

    def _push(self):
        """Hand these to their appliances after the commit, where that is possible."""
        for gateway, commands in self.filtered("waiting").grouped(lambda command: command.device_id.gateway_id).items():
            # from now on the appliance may have them, so they cannot be taken back here alone
            if self.env["iiot.push"]._add(gateway, self._name, commands.ids) and len(commands) <= MOST_SINGLE:
                commands.write({"offered": True})

    def _nudge(self):
        self.env["iiot.push"]._nudge(self.device_id.gateway_id)

    def _is_to_push(self) -> bool:
        return bool(self.state == "queued" and self.waiting and not self.cancel_requested)

    def _push_request(self) -> tuple[str, dict[str, Any]]:
        body = self._wire_order()
        return SEND_COMMAND, body

    def _note_push(self, reply: Reply) -> tuple[str, str]:
        """Write down what came of it, unless the appliance has told more meanwhile; what to tell who ordered."""
        self.invalidate_recordset()
        if not self._is_to_push():
            return "success", ""
        if reply.ok:
            self.problem = False
        elif reply.final:
            is_told_at_its_end = self.tell_user
            self._conclude("failed", reply.code, reply.text)
            return ("warning", "") if is_told_at_its_end else self._told_end()
        else:
            self.write({"problem": reply.text, "offered": reply.reached})
        return "success", ""

    def _told_end(self) -> tuple[str, str]:
        """How it ended, in a line."""
        state = dict(self._fields["state"]._description_selection(self.env))[self.state]
        words = (f"{self.action} → {self.device_id.display_name}", state, self.reason_text)
        return "success" if self.state == "done" else "warning", ": ".join(filter(None, words))

    def _tell_end(self):
        """A notice to whoever pressed the button for those that have ended; what was taken back needs none."""
        ended = self.filtered(lambda command: command.tell_user and command.state in ("done", "failed", "expired"))
        ended.tell_user = False
        for user, commands in ended.grouped("user_id").items():
            commands.with_context(lang=user.lang)._tell_user(user)

    def _tell_user(self, user):
        told = [command._told_end() for command in self[:MOST_TOLD]]
        if len(self) > MOST_TOLD:
            told.append(("success", _("and %s more", len(self) - MOST_TOLD)))
        self.env["iiot.push"]._tell(user.id, told)


class IiotUpdate(models.Model):
    _inherit = "iiot.update"

    def _push(self):
        for gateway, updates in self.filtered("waiting").grouped(lambda update: update.device_id.gateway_id).items():
            if self.env["iiot.push"]._add(gateway, self._name, updates.ids) and len(updates) <= MOST_SINGLE:
                updates.write({"offered": True})

    def _nudge(self):
        self.env["iiot.push"]._nudge(self.device_id.gateway_id)

    def _is_to_push(self) -> bool:
        return bool(self.state == "waiting" and self.waiting and not self.cancel_requested)

    def _push_request(self) -> tuple[str, dict[str, Any]]:
        return SEND_UPDATE, self._wire_order()

    def _note_push(self, reply: Reply) -> tuple[str, str]:
        self.invalidate_recordset()
        if not self._is_to_push():
            return "success", ""
        if reply.ok:
            self.problem = False
        elif reply.final:
            self._conclude("failed", "refused", f"{reply.code}: {reply.text}")
            return "warning", f"{self.display_name}: {self.error}"
        else:
            self.write({"problem": reply.text, "offered": reply.reached})
        return "success", ""
