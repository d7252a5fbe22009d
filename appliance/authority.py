"""Issues the gateway's certificates, as a process of its own: the library that does it takes 10 MB of memory, and the
appliance would carry them for months after a moment's work.

    python -m appliance.authority FOLDER BUILD_DATE NAME...
"""

from __future__ import annotations

import hashlib
import ipaddress
import logging
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from appliance.certificates import AUTHORITY, SERVER, VALID_FROM, VALID_YEARS, chosen
from appliance.errors import DataFolderError
from appliance.secret_files import make_folder, secret_file, write_file

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class _Identity:
    """A certificate and its key; one file, so that no crash can leave two that do not fit."""

    certificate: x509.Certificate
    key: ec.EllipticCurvePrivateKey

    def pem(self) -> bytes:
        key = self.key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        return self.certificate.public_bytes(Encoding.PEM) + key


def make(folder: Path, names: Iterable[str], *, build_date: datetime) -> None:
    """Make what is missing of the certificates in ``folder``, and issue the server's again where it lacks a name.

    ``DataFolderError`` if the authority cannot be read or nothing can be written.
    """
    make_folder(folder)
    authority = _authority(folder / AUTHORITY, build_date)
    path = folder / SERVER
    wanted = list(names)
    server = _read_server(path, authority)
    had = _names_in(server.certificate) if server else []
    if server is None or not set(chosen(wanted)) <= set(had):
        write_file(path, _issue(authority, chosen([*wanted, *had]), build_date).pem(), replace=True)


def periods(folder: Path) -> dict[Path, tuple[datetime, datetime]]:
    """From when to when the certificates in ``folder`` are valid, where they exist; nothing is made.

    ``OSError`` if one cannot be read, ``DataFolderError`` if it is damaged.
    """
    found = {}
    for path in (folder / AUTHORITY, folder / SERVER):
        try:
            certificate = _load(path.read_bytes()).certificate
        except FileNotFoundError:
            continue
        except (ValueError, TypeError):
            raise DataFolderError(f"{path} is damaged") from None
        found[path] = certificate.not_valid_before_utc, certificate.not_valid_after_utc
    return found


def _load(pem: bytes) -> _Identity:
    """Read certificate and key; ``ValueError`` if they are none or do not fit."""
    certificate, key = x509.load_pem_x509_certificate(pem), load_pem_private_key(pem, password=None)
    if not isinstance(key, ec.EllipticCurvePrivateKey) or certificate.public_key() != key.public_key():
        raise ValueError("certificate and key do not fit")
    return _Identity(certificate, key)


def _authority(path: Path, build_date: datetime) -> _Identity:
    pem = secret_file(path, lambda: _new_authority(build_date).pem())
    try:
        return _load(pem)
    except (ValueError, TypeError):
        raise DataFolderError(
            f"{path} is damaged: restore it; with a new authority (remove the file) every device must be told anew"
        ) from None


def _read_server(path: Path, authority: _Identity) -> _Identity | None:
    """The server certificate, or ``None`` where there is none that this authority issued."""
    try:
        server = _load(path.read_bytes())
        server.certificate.verify_directly_issued_by(authority.certificate)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise DataFolderError(f"{path}: {error.strerror}") from error
    except Exception as error:  # cryptography raises its own InvalidSignature besides ValueError and TypeError
        _log.warning("%s cannot be used (%s): issuing a new server certificate", path, type(error).__name__)
        return None
    return server


def _new_authority(build_date: datetime) -> _Identity:
    key = ec.generate_private_key(ec.SECP256R1())
    public = key.public_key()
    # Two gateways must differ in name too: some clients look an authority up by its name alone.
    mark = hashlib.sha256(_key_identifier(public).digest).hexdigest()[:8]
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, f"IIoT Appliance CA {mark}")])
    builder = (
        _builder(subject=name, issuer=name, public=public, issuer_public=public, build_date=build_date)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_key_usage("key_cert_sign", "crl_sign"), critical=True)
    )
    return _Identity(builder.sign(key, hashes.SHA256()), key)


def _issue(authority: _Identity, names: list[str], build_date: datetime) -> _Identity:
    key = ec.generate_private_key(ec.SECP256R1())
    common = next((name for name in names if len(name) <= 64), "localhost")
    builder = (
        _builder(
            subject=x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common)]),
            issuer=authority.certificate.subject,
            public=key.public_key(),
            issuer_public=authority.key.public_key(),
            build_date=build_date,
        )
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_key_usage("digital_signature"), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .add_extension(x509.SubjectAlternativeName(_alternative_names(names)), critical=False)
    )
    return _Identity(builder.sign(authority.key, hashes.SHA256()), key)


def _builder(
    *,
    subject: x509.Name,
    issuer: x509.Name,
    public: ec.EllipticCurvePublicKey,
    issuer_public: ec.EllipticCurvePublicKey,
    build_date: datetime,
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(public)
        .serial_number(x509.random_serial_number())
        .not_valid_before(VALID_FROM)
        .not_valid_after(build_date.replace(year=build_date.year + VALID_YEARS, day=min(build_date.day, 28)))
        .add_extension(_key_identifier(public), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer_public), critical=False)
    )


def _key_identifier(public: ec.EllipticCurvePublicKey) -> x509.SubjectKeyIdentifier:
    return x509.SubjectKeyIdentifier.from_public_key(public)


def _key_usage(*allowed: str) -> x509.KeyUsage:
    usages = (
        "digital_signature",
        "content_commitment",
        "key_encipherment",
        "data_encipherment",
        "key_agreement",
        "key_cert_sign",
        "crl_sign",
        "encipher_only",
        "decipher_only",
    )
    return x509.KeyUsage(**{usage: usage in allowed for usage in usages})


def _alternative_names(names: list[str]) -> list[x509.GeneralName]:
    """Addresses as such, and IPv4 also as names: some small TLS libraries compare with names only.

    (An IPv6 address is no legal name, and strict parsers refuse the whole certificate for one.)
    """
    found: list[x509.GeneralName] = []
    for name in names:
        try:
            address = ipaddress.ip_address(name)
        except ValueError:
            found.append(x509.DNSName(name))
            continue
        found.append(x509.IPAddress(address))
        if address.version == 4:
            found.append(x509.DNSName(name))
    return found


def _names_in(certificate: x509.Certificate) -> list[str]:
    try:
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return []
    return list(dict.fromkeys(str(name.value) for name in names))


def main(arguments: Sequence[str]) -> None:
    """Make them, or end with a sentence on standard error."""
    logging.basicConfig(format="%(message)s")
    folder, build_date, *names = arguments
    try:
        make(Path(folder), names, build_date=datetime.fromisoformat(build_date))
    except DataFolderError as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main(sys.argv[1:])
