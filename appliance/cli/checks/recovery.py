"""Whether another box could take this one's place."""

from __future__ import annotations

from collections.abc import Iterator

from appliance.cli.checks.base import Check, Finding, failed, ok, skipped, warning
from appliance.cli.checks.surroundings import Surroundings
from appliance.errors import DataFolderError


class RecoveryCheck(Check):
    """A dead disk must not mean pairing every device by hand."""

    name, title = "recovery", "Replacement of this box"

    def look(self, box: Surroundings) -> Iterator[Finding]:
        """Whether Odoo keeps its identity."""
        from appliance.recovery import read_kept, read_key

        try:
            access, key = box.access, read_key(box.folder)
        except DataFolderError as error:
            yield failed(str(error), "iiot-appliance recovery new --replace, and write the new passphrase down")
            return
        if access is None:
            yield skipped("there is no Odoo to keep this box's identity: keep backups")
        elif not box.settings.iiot_identity_at_odoo:
            yield ok("Odoo is not to keep this box's identity (IIOT_IDENTITY_AT_ODOO): keep backups")
        elif key is None:
            yield warning(
                "no recovery passphrase was made: if this box dies without a backup, every device must be paired anew",
                "iiot-appliance recovery new, and write the passphrase down",
            )
        elif not access.keep_identity:
            yield warning(
                "Odoo keeps the identity of the box that was this gateway before, and so none of this one",
                "if this box is to stay, enrol it once more (iiot-appliance enroll)",
            )
        elif (kept := read_kept(box.folder)) is None:
            yield warning(
                "Odoo has not taken this box's identity yet", "wait two minutes, then look at the appliance's log"
            )
        else:
            yield ok(f"Odoo has kept this box's identity since {kept.at}")
