"""How long the certificates last."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta

from appliance import certificates
from appliance.cli.checks.base import Check, Finding, failed, ok, skipped, warning
from appliance.cli.checks.clock import now
from appliance.cli.checks.data_folder import problems
from appliance.cli.checks.surroundings import Surroundings
from appliance.cli.exits import Exit
from appliance.errors import DataFolderError

SOON = timedelta(days=60)
"""A certificate that ends within is worth a word."""
_RENEW = "remove {path}, and restart the appliance: it issues another one"
_AUTHORITY = "every device must be given a new authority: plan for it"


class CertificateCheck(Check):
    """Of the authority and of the server."""

    name, title = "certificates", "Certificates"
    before_start = True

    def look(self, box: Surroundings) -> Iterator[Finding]:
        """Days that are left."""
        if any(problems(box.folder)):
            yield skipped("the data folder cannot be used")
            return
        try:
            found = certificates.periods(box.folder / "tls")
        except DataFolderError as error:
            yield failed(str(error), "put a backup back (iiot-appliance restore)", status=Exit.DATA_FOLDER)
            return
        except OSError as error:
            text = f"{error.filename}: {error.strerror}"
            yield failed(text, "run this as the appliance's user, or as root", status=Exit.DATA_FOLDER)
            return
        time = now(box.clock)
        for path, (begin, end) in found.items():
            remedy = _AUTHORITY if path.name == certificates.AUTHORITY else _RENEW.format(path=path)
            if time >= end:
                text = f"{path}: the certificate is valid until {end:%Y-%m-%d} only"
                yield failed(text, remedy, status=Exit.DATA_FOLDER)
            elif time < begin:
                text = f"{path}: the certificate is valid from {begin:%Y-%m-%d} on only"
                yield failed(text, "set the clock", status=Exit.DATA_FOLDER)
            elif time > end - SOON:
                yield warning(f"{path}: the certificate ends on {end:%Y-%m-%d}", remedy)
            else:
                yield ok(f"{path.name} is valid for {(end - time).days} more days")
        if not found:
            yield skipped("there are none yet")
