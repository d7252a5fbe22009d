"""The gateway's own certificate authority and its server certificate, made at the first start and kept.

Devices trust the authority for decades. Nothing in it depends on the clock: boxes without a battery wake in 1970.
What is there is tried as a client would try it, by a handshake; :mod:`appliance.authority` makes what is not.
"""

from __future__ import annotations

import base64
import hashlib
import ipaddress
import logging
import re
import ssl
import subprocess
import sys
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from appliance.errors import DataFolderError

AUTHORITY, SERVER = "authority.pem", "server.pem"
BUILD_DATE = datetime(2026, 11, 22, tzinfo=UTC)
"""Validity is counted from here, not from the clock. Moves with each release."""
VALID_FROM = datetime(1970, 1, 1, tzinfo=UTC)
VALID_YEARS = 23
"""After the build date. Until 2049 times are written in the form that even old parsers read."""
MOST_NAMES = 64
"""In the server certificate, so that the handshake stays small; a host with many container networks has hundreds."""
ISSUED_WITHIN_S = 60.0
"""On the slowest box."""
_CERTIFICATE = re.compile(rb"-----BEGIN CERTIFICATE-----(.+?)-----END CERTIFICATE-----\s?", re.DOTALL)
_WHATEVER_THE_CLOCK_SAYS = 0x200000
"""OpenSSL's X509_V_FLAG_NO_CHECK_TIME."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Certificates:
    """What the listeners need. ``cert_file`` holds certificate and key, so it is ``key_file`` too: replaced as one."""

    ca_pem: str
    fingerprint: str
    """SHA-256 of the authority's certificate, as ``openssl x509 -fingerprint`` prints it."""
    cert_file: Path
    key_file: Path
    names: tuple[str, ...] = ()
    """That clients may use."""
    ends_at_ms: int = 0
    """When the first of the two is not valid any more; milliseconds since 1970."""

    def server_context(self) -> ssl.SSLContext:
        """A new context for the server side: TLS 1.2 and later, no client certificates."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        context.options |= ssl.OP_NO_RENEGOTIATION
        context.load_cert_chain(self.cert_file, self.key_file)
        return context


def ensure(folder: Path, names: Iterable[str], *, build_date: datetime = BUILD_DATE) -> Certificates:
    """The certificates in ``folder``, made where they are missing. Touches the disk: not for the event loop.

    ``names``: host names and addresses that clients may use. The server certificate is issued again, by the same
    authority, when one of them is missing in it; those it had stay, because a box often starts before its network.
    ``DataFolderError`` if the authority cannot be read or nothing can be written.
    """
    wanted = list(names)
    found = _tried(folder)
    if found is None or not set(chosen(wanted)) <= set(found.names):
        _issue(folder, wanted, build_date)
        found = _tried(folder)
    if found is None:
        raise DataFolderError(f"{folder}: the certificates do not work, and new ones neither")
    return found


def periods(folder: Path) -> dict[Path, tuple[datetime, datetime]]:
    """From when to when the certificates in ``folder`` are valid, where they exist; nothing is made.

    ``OSError`` if one cannot be read, ``DataFolderError`` if it is damaged.
    """
    from appliance import authority  # heavy, and this is for a command that ends at once

    return authority.periods(folder)


def chosen(names: Iterable[str]) -> list[str]:
    """Those of the names that go into a certificate, each once and in one spelling."""
    return list(dict.fromkeys(map(canonical, names)))[:MOST_NAMES]


def canonical(name: str) -> str:
    """The one spelling of an address or name, so that a certificate's own can be compared with what is wanted."""
    try:
        return str(ipaddress.ip_address(name))
    except ValueError:
        return name.rstrip(".").lower()


def _issue(folder: Path, names: list[str], build_date: datetime) -> None:
    # -P: a file in the working directory is no part of the appliance
    command = [sys.executable, "-P", "-m", "appliance.authority", str(folder), build_date.isoformat(), *names]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=ISSUED_WITHIN_S)  # noqa: S603
    except (OSError, subprocess.TimeoutExpired) as error:
        raise DataFolderError(f"{folder}: no certificate could be issued: {error}") from error
    if done.returncode:
        raise DataFolderError(done.stderr.strip() or f"{folder}: no certificate could be issued")
    for line in done.stderr.splitlines():
        _log.warning("%s", line)


def _tried(folder: Path) -> Certificates | None:
    """What a client finds out that has the authority's certificate and shakes hands; ``None`` if that does not work."""
    try:
        certificate = _CERTIFICATE.search((folder / AUTHORITY).read_bytes())
        if certificate is None:
            return None
        der = base64.b64decode(certificate[1])
        found = Certificates(
            ca_pem=ssl.DER_cert_to_PEM_cert(der),
            fingerprint=hashlib.sha256(der).digest().hex(":").upper(),
            cert_file=folder / SERVER,
            key_file=folder / SERVER,
        )
        # that its key is there and fits shows only when it is loaded as if to serve
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(folder / AUTHORITY)
        client = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        client.check_hostname = False
        client.verify_flags = ssl.VerifyFlags(client.verify_flags | _WHATEVER_THE_CLOCK_SAYS)
        client.load_verify_locations(cadata=der)
        shown = _shake_hands(found.server_context(), client)
        ends = [str(each["notAfter"]) for each in (shown, *client.get_ca_certs())]
    except (OSError, ValueError):  # ssl's own errors are OSErrors
        return None
    names = [canonical(name.strip()) for _, name in shown.get("subjectAltName", ())]
    return Certificates(
        ca_pem=found.ca_pem,
        fingerprint=found.fingerprint,
        cert_file=found.cert_file,
        key_file=found.key_file,
        names=tuple(dict.fromkeys(names)),
        ends_at_ms=1000 * min(map(ssl.cert_time_to_seconds, ends)),
    )


def _shake_hands(server: ssl.SSLContext, client: ssl.SSLContext) -> dict[str, Any]:
    """The server's certificate as the client has got and verified it; ``ssl.SSLError`` if it refuses it."""
    up, down = ssl.MemoryBIO(), ssl.MemoryBIO()
    ends = [client.wrap_bio(down, up), server.wrap_bio(up, down, server_side=True)]
    for end in (*ends, *ends):
        with suppress(ssl.SSLWantReadError):
            end.do_handshake()
    return dict(ends[0].getpeercert() or {})
