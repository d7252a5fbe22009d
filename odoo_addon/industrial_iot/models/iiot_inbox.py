import logging
from dataclasses import dataclass, field
from typing import Any

from odoo import _, api, models

from ..lib import checks
from ..lib.batch import GATEWAY_EVENT, TELEMETRY, Batch, read_batch, read_message
from ..lib.message import Message
from ..lib.problems import LaterError, RefusalError, RejectedError
from ..lib.topics import is_device_id
from .failures import is_transient

_logger = logging.getLogger(__name__)

BUSY_RETRY_AFTER_S = 1
FORMER_DEVICE_DAYS = 90
"""What a gateway still has of a device that was moved to another one is taken for so long."""
_BATCH_LOCK, _LOCK = 0x11074, 0x11075  # classes of the advisory locks: a batch is in flight; something of it is handled


@dataclass
class _Verdicts:
    """What becomes of the messages of a batch, by ``seq``."""

    rejected: dict[int, RejectedError] = field(default_factory=dict)
    later: set[int] = field(default_factory=set)
    held: set[str] = field(default_factory=set)
    """Devices of which something must come again: what they said after it must not take effect before it."""


class IiotInbox(models.AbstractModel):
    """What arrives from appliances: each message takes effect once, in the transaction of its receipt.

    The order of things is the contract's. An Odoo that knows less than the appliance was told answers ``behind`` before
    it moves its floor; what lies below the floor is a duplicate; only what is stored has a receipt.
    """

    _name = "iiot.inbox"
    _description = "IIoT Inbox"

    @api.model
    def _accept_batch(self, gateway, body: object) -> dict[str, Any]:
        """Answer ``POST /iiot/webhook``: a result for each message, and whether a sync would bring something new.

        ``RefusalError`` refuses the whole batch; the caller ends the transaction.
        """
        batch = read_batch(body)
        self = self._for(gateway)
        gateway = gateway.with_env(self.env)
        gateway._check_uid(batch.gateway)
        stand = self._lock(gateway)
        gateway._check_database(batch.database_uuid)
        if batch.start is not None and stand["admission"] and stand["admission"] != batch.start:
            raise RefusalError(409, "fenced", "another start of this appliance is the active one: sync first")
        epochs = self.env["iiot.gateway.epoch"]
        known = epochs._get(gateway.id, batch.epoch)
        if epochs._knows_less(known, batch.told):
            highest, floor = (known["highest"], known["floor"]) if known else (0, 0)
            detail = "this database knows less than you were told"
            raise RefusalError(409, "behind", detail, highest=highest, floor=floor)
        known = known or epochs._get_or_create(gateway.id, batch.epoch)
        results, stored = self._take(gateway, batch, known)
        stored_seqs = [message.seq for message in stored]
        settled = [result["seq"] for result in results if result["status"] in ("stored", "duplicate")]
        epochs._note_batch(
            known,
            floor=max(batch.told.floor, known["floor"]),
            highest=max(known["highest"], *settled) if settled else known["highest"],
            stored=len(stored),
            highest_stored=max(stored_seqs, default=0),
            start=stand["start"],
        )
        self._note_contact(gateway, stored)
        return {"results": results, "work": gateway._has_work(stand["cursor"])}

    @api.model
    def _accept_single(self, gateway, device_name: str, body: object) -> dict[str, Any]:
        """Answer ``POST /iiot/webhook/<device_id>``; there is no receipt, a repeat takes effect again."""
        raw = {**checks.an_object(body), "seq": 1, "device": device_name}
        self = self._for(gateway)
        gateway = gateway.with_env(self.env)
        stand = self._lock(gateway)
        gateway._check_database(None)
        devices, former = self._find_devices(gateway, [raw])
        if device_name not in devices:
            raise RefusalError(404, "unknown_device", "no such device")
        try:
            message = read_message(raw, devices[device_name])
        except RejectedError as error:
            raise RefusalError(422, error.code, str(error)) from None
        verdicts = _Verdicts()
        self.env["iiot.gateway.epoch"]._take_part()  # there is no receipt that would do so
        self._apply(gateway, [message] if self._counts(message, former) else [], verdicts)
        for error in verdicts.rejected.values():
            raise RefusalError(422, error.code, str(error))
        if verdicts.later:
            raise RefusalError(503, "later", "send it again", headers={"Retry-After": "5"})
        self._note_contact(gateway, [message])
        return {"status": "stored", "work": gateway._has_work(stand["cursor"])}

    @api.model
    def _exclude_others(self) -> None:
        """Until the transaction ends no other gateway's batch is handled, so none can get into this one's way.

        Must be the first statement of a transaction: what it sees is settled by its first look, which must come after
        those that it waits for have ended. Gateways that write the same record might else begin again for ever.
        """
        self.env["iiot.gateway.epoch"]._take_part(alone=True)

    # --- one after the other -----------------------------------------------------------------------------------

    @api.model
    def _for(self, gateway):
        """For what follows the rights are settled; nothing of it is written about in chatters."""
        return self.sudo().with_context(
            tracking_disable=True, allowed_company_ids=gateway.sudo().company_id.ids, iiot_gateway_id=gateway.id
        )

    @api.model
    def _lock(self, gateway, *, batch: bool = True) -> dict[str, Any]:
        """Nothing else of this gateway is handled until the transaction ends; how it stands to it.

        A second ``batch`` is refused at once. A sync that is under way is waited for: it is short, and a batch that
        begins again after a conflict must not find that a sync has slipped in.

        The row is locked too: whoever looked at the database before the last batch or sync had ended gets a
        serialization error here, and begins again with a fresh look. So a copy that was fenced can't slip through.
        """
        cr = self.env.cr
        if batch:
            cr.execute("SELECT pg_try_advisory_xact_lock(%s, %s)", (_BATCH_LOCK, gateway.id))
            if not cr.fetchone()[0]:
                headers = {"Retry-After": str(BUSY_RETRY_AFTER_S)}
                raise RefusalError(429, "gateway_busy", "a batch of this gateway is being handled", headers=headers)
        cr.execute("SELECT pg_advisory_xact_lock(%s, %s)", (_LOCK, gateway.id))
        cr.execute(
            "SELECT admission, start, epoch, cursor FROM iiot_gateway_report WHERE id = %s FOR UPDATE",
            (gateway.report_id.id,),
            log_exceptions=False,
        )
        return cr.dictfetchone()

    @api.model
    def _note_contact(self, gateway, stored: list[Message]) -> None:
        readings = sum(message.kind == TELEMETRY for message in stored)
        self.env.cr.execute(
            "UPDATE iiot_gateway_report SET last_contact = now() AT TIME ZONE 'UTC', "
            "readings_stored = coalesce(readings_stored, 0) + %s WHERE id = %s",
            (readings, gateway.report_id.id),
        )
        gateway.report_id.invalidate_recordset(["last_contact", "readings_stored"], flush=False)
        device_ids = sorted({message.device for message in stored if message.device})
        if device_ids:
            self.env["iiot.device.token"]._note_heard(device_ids)

    # --- a batch -----------------------------------------------------------------------------------------------

    @api.model
    def _take(self, gateway, batch: Batch, known: dict[str, Any]) -> tuple[list[dict[str, Any]], list[Message]]:
        """A result for each message in order, and those that are stored now."""
        epochs = self.env["iiot.gateway.epoch"]
        floor = max(batch.told.floor, known["floor"])
        devices, former = self._find_devices(gateway, batch.messages)
        verdicts = _Verdicts()
        readable: dict[int, Message] = {}
        for raw in batch.messages:
            seq = raw["seq"]
            if seq >= floor and seq not in readable:
                try:
                    readable[seq] = self._read_one(raw, devices)
                except RejectedError as error:
                    verdicts.rejected[seq] = error
        # stored before, its answer was lost: parked as well it might be stored a second time
        for seq in epochs._received(known["id"], list(verdicts.rejected)):
            del verdicts.rejected[seq]
        fresh = epochs._give_receipts(known["id"], list(readable))
        taken = [readable[seq] for seq in readable if seq in fresh]
        self._apply(gateway, [message for message in taken if self._counts(message, former)], verdicts)
        failed = [message.seq for message in taken if message.seq in verdicts.rejected or message.seq in verdicts.later]
        epochs._take_receipts_back(known["id"], failed)
        stored = [message for message in taken if message.seq not in failed] if failed else taken
        return self._results(batch, floor, {message.seq for message in stored}, verdicts), stored

    @api.model
    def _results(self, batch: Batch, floor: int, stored: set[int], verdicts: _Verdicts) -> list[dict[str, Any]]:
        results = []
        for raw in batch.messages:
            seq = raw["seq"]
            if seq < floor:
                results.append({"seq": seq, "status": "duplicate"})
            elif seq in verdicts.rejected:
                error = verdicts.rejected[seq]
                results.append({"seq": seq, "status": "rejected", "code": error.code, "message": str(error)})
            elif seq in verdicts.later:
                results.append({"seq": seq, "status": "retry"})
            elif seq in stored:
                stored.discard(seq)  # the same number once more in the batch is a duplicate
                results.append({"seq": seq, "status": "stored"})
            else:
                results.append({"seq": seq, "status": "duplicate"})
        return results

    @api.model
    def _read_one(self, raw: dict[str, Any], devices: dict[str, int]) -> Message:
        name = raw.get("device")
        if not isinstance(name, str) or not 0 < len(name) <= 64 or not checks.is_storable(name):
            raise RejectedError("invalid", "device must be a text of 1 to 64 characters")
        # what concerns the gateway itself bears no device's name
        if name not in devices and raw.get("kind") != GATEWAY_EVENT:
            raise RejectedError("unknown_device", "no such device")
        return read_message(raw, devices.get(name, 0))

    @api.model
    def _find_devices(self, gateway, raws: list[dict[str, Any]]) -> tuple[dict[str, int], set[int]]:
        """The devices that a batch names: this gateway's, and those that have left it, which are told apart."""
        names = {name for raw in raws if isinstance(name := raw.get("device"), str) and is_device_id(name)}
        if not names:
            return {}, set()
        # with the rights of the gateways' user: the record rule says which are this one's
        own = self.env["iiot.device"].with_user(self.env.ref("industrial_iot.user_gateway"))
        domain = [("device_id", "in", sorted(names)), ("gateway_id", "=", gateway.id)]
        found = own.with_context(active_test=False).search_fetch(domain, ["device_id"], order="id")
        devices = {device.device_id: device.id for device in found}
        former: dict[str, int] = {}
        if missing := names - devices.keys():
            former = self.env["iiot.device.change"]._former(gateway.id, sorted(missing), FORMER_DEVICE_DAYS)
            there = self.env["iiot.device"].with_context(active_test=False).browse(former.values()).exists()
            former = {name: device_id for name, device_id in former.items() if device_id in set(there.ids)}
        return {**former, **devices}, set(former.values())

    @api.model
    def _counts(self, message: Message, former: set[int]) -> bool:
        """Whether it has an effect: how a device is connected is said by the gateway that has it now."""
        return message.kind != "presence" or message.device not in former

    # --- effects -----------------------------------------------------------------------------------------------

    @api.model
    def _apply(self, gateway, messages: list[Message], verdicts: _Verdicts) -> None:
        """Let messages take effect, all in one savepoint, or, where that fails, halves of them, down to each alone."""
        messages = [message for message in messages if not self._is_held(message, verdicts)]
        if not messages:
            return
        try:
            with self.env.cr.savepoint():
                self._hand_over(gateway, messages)
        except RejectedError as error:
            if len(messages) == 1:
                verdicts.rejected[messages[0].seq] = error
                return
        except LaterError:
            if len(messages) == 1:
                verdicts.later.add(messages[0].seq)
                if messages[0].kind != TELEMETRY:
                    verdicts.held.add(messages[0].device_name)
                return
        except Exception as error:
            if is_transient(error):
                raise  # the whole batch, on a fresh snapshot
            if len(messages) == 1:
                _logger.warning("%s of %s failed", messages[0].kind, messages[0].device_name, exc_info=True)
                text = _("it could not be stored (%s): the log of Odoo says more", type(error).__name__)
                verdicts.rejected[messages[0].seq] = RejectedError("failed", text)
                return
        else:
            return
        half = len(messages) // 2
        self._apply(gateway, messages[:half], verdicts)
        self._apply(gateway, messages[half:], verdicts)

    @api.model
    def _is_held(self, message: Message, verdicts: _Verdicts) -> bool:
        held = message.kind != TELEMETRY and message.device_name in verdicts.held
        if held:
            verdicts.later.add(message.seq)
        return held

    @api.model
    def _hand_over(self, gateway, messages: list[Message]) -> None:
        """Each message to the part that knows its kind, in the order in which they came."""
        takers = {
            "presence": self.env["iiot.device"]._take_presence,
            "command_state": self.env["iiot.command"]._take_states,
            "command_response": self.env["iiot.command"]._take_states,
            "ota_status": self.env["iiot.update"]._take_statuses,
            TELEMETRY: self.env["iiot.telemetry"]._take,
            GATEWAY_EVENT: gateway._take_events,
        }
        parts: dict[Any, list[Message]] = {}
        for message in messages:
            parts.setdefault(takers[message.kind], []).append(message)
        for take, part in parts.items():
            take(part)
