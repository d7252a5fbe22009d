"""The running appliance as a command sees it: over its HTTP API on this machine, with the key of its data folder."""

from __future__ import annotations

import errno
import json
import re
import ssl
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from appliance.cli.exits import Exit, fail
from appliance.settings import Settings, read

if TYPE_CHECKING:
    import httpx

TIMEOUT_S = 120.0
"""Longer than the appliance lets any request take."""
CONNECT_S = 5.0
CERTIFIED_NAME = "localhost"
"""Every certificate of an appliance holds it, whatever the network calls the box today: the address may be new, the
authority is the data folder's own."""
_NAMED = {"sni_hostname": CERTIFIED_NAME}
_CERTIFICATE = re.compile(r"-----BEGIN CERTIFICATE-----.+?-----END CERTIFICATE-----", re.DOTALL)


class Box:
    """An appliance that runs. Every method ends the command with a sentence and a status where it cannot be served."""

    def __init__(self, client: httpx.Client, settings: Settings) -> None:
        self.settings = settings
        self._client = client

    def get(self, path: str, params: Mapping[str, Any] | None = None, *, also: tuple[int, ...] = ()) -> Any:
        """``GET``; statuses of ``also`` are answers too."""
        return self.call("GET", path, params=params, also=also)

    def call(
        self,
        method: str,
        path: str,
        *,
        params: Mapping[str, Any] | None = None,
        body: Mapping[str, Any] | None = None,
        also: tuple[int, ...] = (),
    ) -> Any:
        """One request; the answer's JSON."""
        given = {name: value for name, value in (params or {}).items() if value is not None}
        with self._translated():
            answer = self._client.request(method, path, params=given, json=body, extensions=_NAMED)
        return self._read(answer, also)

    def download(self, path: str, params: Mapping[str, Any] | None = None) -> Iterator[bytes]:
        """``GET``, piece by piece as it comes; one that breaks off ends the command."""
        given = {name: value for name, value in (params or {}).items() if value is not None}
        with self._translated(), self._stream(path, given) as answer:
            if answer.is_error:
                answer.read()
                self._read(answer, ())
            yield from answer.iter_bytes()

    def _stream(self, path: str, query: Mapping[str, Any]) -> AbstractContextManager[httpx.Response]:
        return self._client.stream("GET", path, params=query, extensions=_NAMED)

    def _read(self, answer: httpx.Response, also: tuple[int, ...]) -> Any:
        try:
            document = json.loads(answer.content)
        except ValueError:
            document = None
        if answer.is_success or answer.status_code in also:
            return self._stranger("its answer is not JSON") if document is None else document
        if not isinstance(document, dict) or "code" not in document:
            self._stranger(f"it answers {answer.status_code} without a reason")
        if answer.status_code == 401:
            fail(Exit.REFUSED, "the appliance does not know this key: was it started with another IIOT_API_KEY?")
        return fail(Exit.REFUSED, f"{document.get('detail')} ({document['code']})")

    def _stranger(self, why: str) -> NoReturn:
        fail(Exit.MISMATCH, f"what listens on port {self.settings.port} is no appliance: {why}")

    @contextmanager
    def _translated(self) -> Iterator[None]:
        import httpx

        port = self.settings.port
        try:
            yield
        except httpx.TimeoutException:
            fail(Exit.NOT_RUNNING, f"the appliance does not answer on port {port} in time")
        except httpx.TransportError as error:
            cause = _root(error)
            if isinstance(cause, ssl.SSLCertVerificationError):
                self._stranger("its certificate is not from this data folder (IIOT_DATA_DIR)")
            if isinstance(cause, ssl.SSLError):
                self._stranger("it does not speak TLS; is HTTP_USE_TLS what the appliance was started with?")
            if isinstance(error, httpx.ConnectError):
                self._nobody(cause)
            if not self.settings.http_use_tls and isinstance(error, (httpx.ReadError, httpx.RemoteProtocolError)):
                self._stranger("it does not speak plain HTTP; is HTTP_USE_TLS what the appliance was started with?")
            fail(Exit.FAILED, f"the connection to the appliance broke off: {error}")

    def _nobody(self, cause: BaseException) -> NoReturn:
        host, port, folder = self.settings.host, self.settings.port, self.settings.iiot_data_dir
        if isinstance(cause, OSError) and cause.errno in (errno.EADDRNOTAVAIL, errno.ENETUNREACH, errno.EHOSTUNREACH):
            fail(Exit.MISMATCH, f"HOST is {host}, and this machine has no such address")
        if is_in_use(folder):
            fail(
                Exit.MISMATCH,
                f"an appliance works on {folder}, but not on port {port}: it was started with another HOST or PORT",
            )
        fail(Exit.NOT_RUNNING, f"the appliance is not running: nothing listens on port {port}")


def read_settings(env_file: Path | None) -> Settings:
    """The settings, or the end of the command."""
    findings = read(env_file)
    if findings.settings is None:
        fail(Exit.SETTINGS, *findings.problems, *findings.unknown)
    return findings.settings


@contextmanager
def connected(env_file: Path | None) -> Iterator[Box]:
    """The appliance of these settings. Reads its key and its authority, and makes neither."""
    settings = read_settings(env_file)
    if settings.port == 0:
        fail(Exit.SETTINGS, "PORT is 0: nobody knows which port the appliance has chosen")
    key = own_key(settings)
    verify = _trust(settings) if settings.http_use_tls else False

    import httpx  # a fifth of a second, and not every command needs it

    scheme = "https" if settings.http_use_tls else "http"
    with httpx.Client(
        base_url=f"{scheme}://{local_address(settings.host)}:{settings.port}",
        headers={"X-API-Key": key},
        verify=verify,
        trust_env=False,  # no proxy stands between this machine and itself
        timeout=httpx.Timeout(TIMEOUT_S, connect=CONNECT_S),
    ) as client:
        yield Box(client, settings)


def local_address(host: str) -> str:
    """Where a listener on ``host`` is reached from this machine."""
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)  # noqa: S104 - compared, not bound
    return f"[{host}]" if ":" in host else host


def own_key(settings: Settings) -> str:
    """The appliance's own key."""
    if settings.iiot_api_key is not None:
        return settings.iiot_api_key.get_secret_value()
    key = _read_file(settings.iiot_data_dir / "api_key", settings).strip()
    if not key:
        fail(Exit.DATA_FOLDER, f"{settings.iiot_data_dir / 'api_key'} holds no key")
    return key


def _trust(settings: Settings) -> ssl.SSLContext:
    """Only the data folder's own authority."""
    path = settings.iiot_data_dir / "tls" / "authority.pem"
    found = _CERTIFICATE.search(_read_file(path, settings))  # the file holds the authority's key too
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    try:
        context.load_verify_locations(cadata=found.group() if found else "")
    except (ssl.SSLError, ValueError):
        fail(Exit.DATA_FOLDER, f"{path} holds no certificate")
    return context


def _read_file(path: Path, settings: Settings) -> str:
    folder = settings.iiot_data_dir
    try:
        return path.read_text("ascii", "replace")
    except FileNotFoundError:
        if (folder / "master.key").exists():  # an appliance was here, and what is missing it had no need to make
            fail(
                Exit.MISMATCH,
                f"there is no {path}: the appliance was started with other settings, such as its own IIOT_API_KEY or"
                " HTTP_USE_TLS; give this command the same, or --env-file",
            )
        if folder.is_dir():
            fail(Exit.NOT_RUNNING, f"no appliance was ever started on the data folder {folder} (IIOT_DATA_DIR)")
        fail(Exit.DATA_FOLDER, f"there is no data folder {folder}; IIOT_DATA_DIR or --env-file says which it is")
    except PermissionError:
        fail(Exit.DATA_FOLDER, f"{path} may not be read{_by_whom(folder)}")
    except OSError as error:
        fail(Exit.DATA_FOLDER, f"{path}: {error.strerror}")


def _by_whom(folder: Path) -> str:
    try:
        return f": run this as the user {folder.owner()}, or as root"
    except (OSError, KeyError):
        return ": run this as the user whom it belongs to, or as root"


def is_in_use(folder: Path) -> bool:
    """Whether an appliance works on the data folder. Looks only: to try the lock could keep one from starting."""
    try:
        inode = (folder / "lock").stat().st_ino
        lines = Path("/proc/locks").read_text().splitlines()
    except OSError:
        return False
    held = [line.split() for line in lines]
    return any(
        fields[1:2] == ["FLOCK"] and len(fields) > 5 and fields[5].rpartition(":")[2] == str(inode) for fields in held
    )


def _root(error: BaseException) -> BaseException:
    while (cause := error.__cause__ or error.__context__) is not None:
        error = cause
    return error
