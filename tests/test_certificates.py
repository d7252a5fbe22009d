"""The gateway's certificates and secret files: accepted by ordinary clients, kept for life, private."""

from __future__ import annotations

import asyncio
import ipaddress
import shutil
import ssl
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

import pytest
from cryptography import x509

from appliance import certificates, secret_files
from appliance.addresses import own_names
from appliance.certificates import BUILD_DATE, Certificates, ensure
from appliance.errors import DataFolderError
from tests.conftest import ROOT

NAMES = ["gw1.factory.lan", "localhost", "127.0.0.1", "::1", "192.168.7.20"]


@pytest.fixture
def made(tmp_path: Path) -> Certificates:
    return ensure(tmp_path / "tls", NAMES)


def server_certificate(made: Certificates) -> x509.Certificate:
    return x509.load_pem_x509_certificate(made.cert_file.read_bytes())


async def handshake(made: Certificates, name: str, ca_pem: str) -> str | None:
    """Connect as a client that knows the server as ``name``; returns the TLS version."""
    served = asyncio.Event()

    async def serve(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.close()
        await writer.wait_closed()
        served.set()

    async with await asyncio.start_server(serve, "127.0.0.1", 0, ssl=made.server_context()) as server:
        client = ssl.create_default_context(cadata=ca_pem)
        client.verify_flags |= ssl.VERIFY_X509_STRICT  # the default from Python 3.13 on
        port = server.sockets[0].getsockname()[1]
        _, writer = await asyncio.open_connection("127.0.0.1", port, ssl=client, server_hostname=name)
        version: str | None = writer.get_extra_info("ssl_object").version()
        writer.close()
        await writer.wait_closed()
        await served.wait()
    return version


@pytest.mark.parametrize("name", NAMES)
async def test_a_strict_client_that_has_the_authority_connects_under_every_name(made: Certificates, name: str) -> None:
    assert await handshake(made, name, made.ca_pem) == "TLSv1.3"


async def test_a_client_refuses_another_name_and_another_authority(made: Certificates, tmp_path: Path) -> None:
    with pytest.raises(ssl.SSLCertVerificationError, match="mismatch"):
        await handshake(made, "gw2.factory.lan", made.ca_pem)
    other = ensure(tmp_path / "other", NAMES)
    with pytest.raises(ssl.SSLCertVerificationError, match="verify failed"):
        await handshake(made, "localhost", other.ca_pem)


@pytest.mark.skipif(shutil.which("openssl") is None, reason="needs the openssl command")
@pytest.mark.parametrize("clock", [datetime(1970, 1, 1, 0, 1, tzinfo=UTC), datetime(2046, 11, 1, tzinfo=UTC)])
def test_openssl_accepts_the_chain_whatever_the_clock_says(made: Certificates, tmp_path: Path, clock: datetime) -> None:
    (tmp_path / "ca.pem").write_text(made.ca_pem)
    order = ["openssl", "verify", "-x509_strict", "-purpose", "sslserver", "-attime", str(int(clock.timestamp()))]
    order += ["-CAfile", str(tmp_path / "ca.pem"), "-verify_ip", "192.168.7.20", str(made.cert_file)]
    result = subprocess.run(order, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    print_out = ["openssl", "x509", "-noout", "-fingerprint", "-sha256", "-in", str(tmp_path / "ca.pem")]
    printed = subprocess.run(print_out, capture_output=True, text=True, check=True).stdout
    assert printed.strip().partition("=")[2] == made.fingerprint


def test_both_certificates_are_valid_from_1970_until_twenty_years_after_the_build(made: Certificates) -> None:
    for certificate in (server_certificate(made), x509.load_pem_x509_certificate(made.ca_pem.encode())):
        assert certificate.not_valid_before_utc == datetime(1970, 1, 1, tzinfo=UTC)
        assert certificate.not_valid_after_utc >= BUILD_DATE.replace(year=BUILD_DATE.year + 20)


def test_addresses_are_named_as_such_and_the_old_ones_as_names_too(made: Certificates) -> None:
    names = server_certificate(made).extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert set(names.get_values_for_type(x509.IPAddress)) == {ipaddress.ip_address(name) for name in NAMES[2:]}
    assert set(names.get_values_for_type(x509.DNSName)) == {
        "gw1.factory.lan",
        "localhost",
        "127.0.0.1",
        "192.168.7.20",
    }


def test_a_restart_changes_nothing(made: Certificates) -> None:
    before = made.cert_file.read_bytes()
    assert ensure(made.cert_file.parent, reversed(NAMES)) == made
    assert made.cert_file.read_bytes() == before


async def test_a_new_name_gets_a_new_server_certificate_from_the_same_authority(made: Certificates) -> None:
    again = ensure(made.cert_file.parent, ["gw9.factory.lan", "10.9.9.9"])
    assert again.ca_pem == made.ca_pem
    for name in ("gw9.factory.lan", "10.9.9.9", "192.168.7.20"):
        assert await handshake(again, name, made.ca_pem)


async def test_more_names_than_fit_leave_the_first_ones(made: Certificates) -> None:
    again = ensure(made.cert_file.parent, [f"host-{number}" for number in range(200)])
    names = server_certificate(again).extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.DNSName) == [f"host-{number}" for number in range(certificates.MOST_NAMES)]


def test_a_damaged_server_certificate_is_replaced_and_a_damaged_authority_is_never(made: Certificates) -> None:
    folder = made.cert_file.parent
    made.cert_file.write_bytes(made.cert_file.read_bytes()[:200])
    assert ensure(folder, NAMES).ca_pem == made.ca_pem
    assert server_certificate(made)
    authority = folder / "authority.pem"
    authority.write_bytes(authority.read_bytes()[:200])
    with pytest.raises(DataFolderError, match="damaged"):
        ensure(folder, NAMES)
    assert len(authority.read_bytes()) == 200


def test_private_files_are_for_this_user_alone_and_nothing_half_written_stays(tmp_path: Path) -> None:
    ensure(tmp_path / "data" / "tls", NAMES)
    secret_files.master_key(tmp_path / "data")
    secret_files.api_key(tmp_path / "data")
    found = {path.relative_to(tmp_path): path.stat().st_mode & 0o777 for path in tmp_path.rglob("*")}
    assert found == {
        Path("data"): 0o700,
        Path("data/tls"): 0o700,
        Path("data/tls/authority.pem"): 0o600,
        Path("data/tls/server.pem"): 0o600,
        Path("data/master.key"): 0o600,
        Path("data/api_key"): 0o600,
    }


def test_secrets_are_made_once(tmp_path: Path) -> None:
    key = secret_files.master_key(tmp_path)
    assert len(key) == 32
    assert secret_files.master_key(tmp_path) == key
    api_key = secret_files.api_key(tmp_path)
    assert len(api_key) >= 32
    assert secret_files.api_key(tmp_path) == api_key == (tmp_path / "api_key").read_text().strip()


def test_of_two_that_start_at_once_both_get_the_secret_that_was_there_first(tmp_path: Path) -> None:
    path = tmp_path / "secret"

    def make() -> bytes:
        path.write_bytes(b"the other's")  # between looking and writing
        return b"mine"

    assert secret_files.secret_file(path, make) == b"the other's"


def test_a_damaged_secret_is_an_error_and_is_not_replaced(tmp_path: Path) -> None:
    (tmp_path / "master.key").write_bytes(b"")
    (tmp_path / "api_key").write_bytes(b"\n")
    with pytest.raises(DataFolderError, match=r"master\.key is damaged"):
        secret_files.master_key(tmp_path)
    with pytest.raises(DataFolderError, match="holds no key"):
        secret_files.api_key(tmp_path)
    assert (tmp_path / "master.key").read_bytes() == b""


def test_a_folder_that_cannot_be_used_is_one_clear_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(DataFolderError, match="file"):
        ensure(tmp_path / "file" / "tls", NAMES)
    with pytest.raises(DataFolderError, match="file"):
        secret_files.master_key(tmp_path / "file")


def test_this_machine_knows_its_loopback_names() -> None:
    names = own_names()
    assert {"localhost", "127.0.0.1", "::1"} <= set(names)
    assert len(names) == len(set(names))


def test_the_appliance_does_not_carry_the_library_that_issues_certificates() -> None:
    code = "import sys, appliance.process, appliance.cli; print('cryptography' in sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert loaded.stdout.strip() == "False"


def test_what_runs_out_first_and_the_names_are_known_without_it(made: Certificates) -> None:
    assert set(made.names) == set(NAMES)
    ends = server_certificate(made).not_valid_after_utc
    assert made.ends_at_ms == int(ends.timestamp()) * 1000
