"""Whom a device trusts: the appliance's own certificate authority, given as a file or checked by its fingerprint."""

from __future__ import annotations

import hashlib
import hmac
import ssl
from functools import lru_cache

import httpx

CA_PATH = "/ca.pem"
MAX_CA_BYTES = 16_384


class TrustError(Exception):
    """The authority cannot be trusted, and why."""


def fingerprint(ca_pem: str) -> str:
    """SHA-256 of the certificate's DER form as 64 hex digits, what a pairing label shows. ``TrustError`` if no PEM."""
    try:
        return hashlib.sha256(ssl.PEM_cert_to_DER_cert(ca_pem.strip() + "\n")).hexdigest()
    except ValueError:
        raise TrustError("this is no certificate in PEM form") from None


def check(ca_pem: str, expected: str) -> None:
    """``TrustError`` unless the certificate has this fingerprint; colons, spaces and case do not matter."""
    wanted = "".join(character for character in expected.lower() if character in "0123456789abcdef")
    if len(wanted) != 64:
        raise TrustError("a fingerprint has 64 hex digits")
    if not hmac.compare_digest(fingerprint(ca_pem), wanted):
        raise TrustError("the authority's fingerprint is not the one on the label")


def fetch_ca(base_url: str, expected: str, *, timeout_s: float = 10.0) -> str:
    """``GET /ca.pem``, believed only because of its fingerprint. ``TrustError`` if it cannot be had or is another."""
    try:
        # the connection proves nothing yet, the fingerprint does
        response = httpx.get(base_url.rstrip("/") + CA_PATH, verify=False, timeout=timeout_s, trust_env=False)  # noqa: S501
        response.raise_for_status()
    except httpx.HTTPError as error:
        raise TrustError(f"{CA_PATH} cannot be fetched: {error}") from None
    if len(response.content) > MAX_CA_BYTES:
        raise TrustError(f"{CA_PATH} is too large")
    check(response.text, expected)
    return response.text


@lru_cache(maxsize=64)
def context(ca_pem: str) -> ssl.SSLContext:
    """TLS that accepts certificates of this authority only, for the right name; shared by all devices that pin it."""
    try:
        trusting = ssl.create_default_context(cadata=ca_pem)
    except (ssl.SSLError, ValueError) as error:
        raise TrustError(f"the authority's certificate cannot be used: {error}") from None
    trusting.sslsocket_class = _TidySocket
    return trusting


class _TidySocket(ssl.SSLSocket):
    """Closed when its handshake fails; paho would leave that to the garbage collector."""

    def do_handshake(self, block: bool = False) -> None:
        try:
            super().do_handshake(block)
        except BaseException:
            self.close()
            raise
