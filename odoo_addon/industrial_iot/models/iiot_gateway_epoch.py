from typing import Any

from odoo import api, models
from odoo.tools import SQL

from ..lib.batch import Told
from ..lib.sync import MAX_STARTS, StartReport

STARTS_KEPT = 1000
"""Of each epoch."""

_SCHEMA = """
CREATE TABLE IF NOT EXISTS iiot_gateway_epoch (
    id serial PRIMARY KEY, gateway_id integer NOT NULL, epoch varchar NOT NULL,
    floor bigint NOT NULL DEFAULT 0, highest bigint NOT NULL DEFAULT 0, below bigint NOT NULL DEFAULT 0,
    stored bigint NOT NULL DEFAULT 0, retired boolean NOT NULL DEFAULT false, UNIQUE (gateway_id, epoch)
);
CREATE TABLE IF NOT EXISTS iiot_gateway_start (
    id bigserial PRIMARY KEY, epoch_id integer NOT NULL, start varchar NOT NULL, first_seq bigint NOT NULL,
    previous varchar, highest bigint NOT NULL DEFAULT 0, synced bigint NOT NULL DEFAULT 0, UNIQUE (epoch_id, start)
);
CREATE TABLE IF NOT EXISTS iiot_receipt (
    epoch_id integer NOT NULL, seq bigint NOT NULL, PRIMARY KEY (epoch_id, seq)
);
"""


class IiotGatewayEpoch(models.AbstractModel):
    """What is here of an appliance's messages: a receipt for each that is in flight, and a count of the earlier ones.

    Three tables of its own, without records: sequence numbers outgrow Odoo's integers, and five hundred receipts are
    written at once. ``below`` counts the receipts that were deleted when the floor was moved.
    """

    _name = "iiot.gateway.epoch"
    _description = "IIoT Gateway Epoch"

    def init(self):
        self.env.cr.execute(_SCHEMA)

    @api.model
    def _forget(self, gateways) -> None:
        """Everything of gateways that are deleted."""
        cr, ids = self.env.cr, tuple(gateways.ids) or (0,)
        epochs = SQL("(SELECT id FROM iiot_gateway_epoch WHERE gateway_id IN %s)", ids)
        cr.execute(SQL("DELETE FROM iiot_receipt WHERE epoch_id IN %s", epochs))
        cr.execute(SQL("DELETE FROM iiot_gateway_start WHERE epoch_id IN %s", epochs))
        cr.execute("DELETE FROM iiot_gateway_epoch WHERE gateway_id IN %s", (ids,))

    @api.model
    def _get(self, gateway_id: int, epoch: str) -> dict[str, Any] | None:
        """The row of an epoch that was heard of."""
        self.env.cr.execute(
            "SELECT id, floor, highest, below, stored, retired FROM iiot_gateway_epoch "
            "WHERE gateway_id = %s AND epoch = %s",
            (gateway_id, epoch),
        )
        return self.env.cr.dictfetchone()

    @api.model
    def _get_or_create(self, gateway_id: int, epoch: str) -> dict[str, Any]:
        known = self._get(gateway_id, epoch)
        if known is None:
            self.env.cr.execute(
                "INSERT INTO iiot_gateway_epoch (gateway_id, epoch) VALUES (%s, %s)", (gateway_id, epoch)
            )
            known = self._get(gateway_id, epoch)
        return known

    @api.model
    def _knows_less(self, known: dict[str, Any] | None, told: Told) -> bool:
        """Whether this database was restored from a backup: it has less than it once confirmed.

        The highest number alone does not show it: with two lanes it may be in the backup, and others below it not. Nor
        does the number of all: what is here though its answer was lost makes up for what is not. Below its floor the
        appliance was told of all that is here, so there both sides count the same messages.
        """
        known = known or {"id": 0, "highest": 0, "stored": 0, "below": 0}
        if told.settled > known["highest"] or told.stored > known["stored"]:
            return True
        if told.below <= known["below"]:
            return False
        self.env.cr.execute(
            "SELECT count(*) FROM iiot_receipt WHERE epoch_id = %s AND seq < %s", (known["id"], told.floor)
        )
        return told.below > known["below"] + self.env.cr.fetchone()[0]

    # --- receipts ----------------------------------------------------------------------------------------------

    @api.model
    def _received(self, epoch_id: int, seqs: list[int]) -> set[int]:
        """Those of ``seqs`` that have a receipt."""
        if not seqs:
            return set()
        self.env.cr.execute("SELECT seq FROM iiot_receipt WHERE epoch_id = %s AND seq = ANY(%s)", (epoch_id, seqs))
        return {row[0] for row in self.env.cr.fetchall()}

    @api.model
    def _give_receipts(self, epoch_id: int, seqs: list[int]) -> set[int]:
        """Those of ``seqs`` that had none and have one now."""
        if not seqs:
            return set()
        rows = self.env.cr.execute_values(
            "INSERT INTO iiot_receipt (epoch_id, seq) VALUES %s ON CONFLICT DO NOTHING RETURNING seq",
            [(epoch_id, seq) for seq in seqs],
            page_size=len(seqs),
            fetch=True,
        )
        return {row[0] for row in rows}

    @api.model
    def _take_part(self, *, alone: bool = False) -> None:
        """Hold the lock that writing receipts takes, or one that keeps all others from writing any."""
        mode = SQL("EXCLUSIVE" if alone else "ROW EXCLUSIVE")
        self.env.cr.execute(SQL("LOCK TABLE iiot_receipt IN %s MODE", mode))

    @api.model
    def _take_receipts_back(self, epoch_id: int, seqs: list[int]) -> None:
        """Of messages that took no effect after all."""
        if seqs:
            self.env.cr.execute("DELETE FROM iiot_receipt WHERE epoch_id = %s AND seq = ANY(%s)", (epoch_id, seqs))

    @api.model
    def _note_batch(
        self, known: dict[str, Any], *, floor: int, highest: int, stored: int, highest_stored: int, start: str | None
    ) -> None:
        """Move the floor and what it prunes, and count."""
        cr = self.env.cr
        pruned = 0
        if floor > known["floor"]:
            cr.execute("DELETE FROM iiot_receipt WHERE epoch_id = %s AND seq < %s", (known["id"], floor))
            pruned = cr.rowcount
        if floor > known["floor"] or highest > known["highest"] or stored:
            cr.execute(
                "UPDATE iiot_gateway_epoch SET floor = %s, highest = %s, below = below + %s, stored = stored + %s "
                "WHERE id = %s",
                (floor, highest, pruned, stored, known["id"]),
            )
        if highest_stored and start:
            cr.execute(
                "UPDATE iiot_gateway_start SET highest = %s WHERE epoch_id = %s AND start = %s AND highest < %s",
                (highest_stored, known["id"], start, highest_stored),
            )

    # --- syncs -------------------------------------------------------------------------------------------------

    @api.model
    def _tell(self, gateway_id: int, epoch: str, told: Told) -> dict[str, Any] | None:
        """``known`` of an answer to ``sync``; ``None`` where nothing was ever heard of the epoch."""
        known = self._get(gateway_id, epoch)
        if known is None:
            return None
        self.env.cr.execute(
            "SELECT start, first_seq, previous, highest AS highest_seq, synced FROM iiot_gateway_start "
            "WHERE epoch_id = %s ORDER BY id DESC LIMIT %s",
            (known["id"], MAX_STARTS),
        )
        starts = self.env.cr.dictfetchall()
        if not starts and not known["highest"]:
            return None
        last = max(starts, key=lambda start: start["synced"])["start"] if starts else None
        return {
            "epoch": epoch,
            "floor": known["floor"],
            "highest_seq": known["highest"],
            "stored": known["stored"],
            "below": known["below"],
            "behind": self._knows_less(known, told),
            "last_start": last,
            "starts": [{name: start[name] for name in start if name != "synced"} for start in reversed(starts)],
        }

    @api.model
    def _note_starts(self, epoch_id: int, present: str, starts: list[StartReport]) -> None:
        """Remember the starts that a sync tells of; ``present`` is the last that has synced."""
        cr = self.env.cr
        cr.execute_values(
            "INSERT INTO iiot_gateway_start (epoch_id, start, first_seq, previous) VALUES %s ON CONFLICT DO NOTHING",
            [(epoch_id, start.start, start.first_seq, start.previous) for start in starts],
        )
        cr.execute(
            "UPDATE iiot_gateway_start SET synced = "
            "(SELECT max(synced) + 1 FROM iiot_gateway_start WHERE epoch_id = %s) WHERE epoch_id = %s AND start = %s",
            (epoch_id, epoch_id, present),
        )
        cr.execute(
            "DELETE FROM iiot_gateway_start WHERE epoch_id = %s AND id <= (SELECT id FROM iiot_gateway_start "
            "WHERE epoch_id = %s ORDER BY id DESC LIMIT 1 OFFSET %s)",
            (epoch_id, epoch_id, STARTS_KEPT),
        )

    @api.model
    def _retire(self, gateway_id: int, epoch: str) -> None:
        """Who still presents this epoch as its own is a copy that was left behind."""
        self.env.cr.execute(
            "UPDATE iiot_gateway_epoch SET retired = true WHERE gateway_id = %s AND epoch = %s", (gateway_id, epoch)
        )
