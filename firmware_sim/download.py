"""A file over HTTP(S), piece by piece into flash: goes on where it stopped, after broken connections and restarts."""

from __future__ import annotations

import asyncio
import os
import ssl
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import BinaryIO

import httpx

from appliance.contract.times import Clock
from firmware_sim import trust
from firmware_sim.backoff import Backoff
from firmware_sim.habits import Patience

MOST_BYTES = 256 << 20
"""What fits into a slot."""
PASSING = frozenset((408, 425, 429, *range(500, 600)))
"""Statuses after which it is worth asking again."""
LONGEST_RETRY_AFTER_S = 300.0


class DownloadError(Exception):
    """The file cannot be had; the text is for people."""


class _AgainError(Exception):
    """Not now."""

    def __init__(self, after_s: float = 0.0) -> None:
        super().__init__()
        self.after_s = after_s


@dataclass(slots=True, kw_only=True)
class Download:
    """One file. ``ca_pem`` is the appliance's authority; ``progress`` is told how many bytes there are."""

    url: str
    path: Path
    size: int
    ca_pem: str | None
    random: Random
    progress: Callable[[int], None]
    patience: Patience = field(default_factory=Patience)
    clock: Clock = field(default_factory=Clock)

    async def run(self) -> None:
        """Until all ``size`` bytes are in the file. ``DownloadError`` if that is not to be."""
        if not 0 < self.size <= MOST_BYTES:
            raise DownloadError(f"{self.size} bytes do not fit")
        backoff = Backoff(random=self.random, longest_s=self.patience.longest_pause_s)
        moved_at = self.clock.monotonic()
        with self.path.open("ab", buffering=0) as file:
            async with self._client() as client:
                while (before := self._have(file)) < self.size:
                    pause_s = 0.0
                    try:
                        await self._ask(client, file, before)
                    except _AgainError as again:
                        pause_s = again.after_s
                    except httpx.TransportError:
                        pass
                    if self._have(file) > before:
                        moved_at = self.clock.monotonic()
                        backoff.reset()
                    elif self.clock.monotonic() - moved_at > self.patience.give_up_s:
                        raise DownloadError("no progress")
                    if self._have(file) < self.size:
                        await asyncio.sleep(max(pause_s, backoff.next_s()))
            await asyncio.to_thread(os.fsync, file.fileno())

    def _client(self) -> httpx.AsyncClient:
        if self.ca_pem is not None:
            try:
                context = trust.context(self.ca_pem)
            except trust.TrustError as error:
                raise DownloadError(str(error)) from None
        elif self.url.startswith("http:"):
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)  # never used
        else:
            raise DownloadError("there is no authority to trust")
        return httpx.AsyncClient(verify=context, timeout=self.patience.read_s, trust_env=False, follow_redirects=False)

    def _have(self, file: BinaryIO) -> int:
        have = os.fstat(file.fileno()).st_size
        if have > self.size:
            raise DownloadError("the file is longer than the offer says")
        return have

    async def _ask(self, client: httpx.AsyncClient, file: BinaryIO, have: int) -> None:
        """One request for what is missing; whatever came before it broke is kept."""
        headers = {"Accept-Encoding": "identity"} | ({"Range": f"bytes={have}-"} if have else {})
        try:
            async with client.stream("GET", self.url, headers=headers) as answer:
                self._judge(answer, file, have)
                async for piece in answer.aiter_raw():
                    file.write(piece)
                    self.progress(self._have(file))
                    if self.patience.bytes_per_s is not None:
                        await asyncio.sleep(len(piece) / self.patience.bytes_per_s)
        except (httpx.InvalidURL, httpx.UnsupportedProtocol):
            raise DownloadError("the offer's address cannot be used") from None

    def _judge(self, answer: httpx.Response, file: BinaryIO, have: int) -> None:
        """Whether the body is what was asked for; the whole file instead of a part begins it anew."""
        if answer.status_code in PASSING:
            raise _AgainError(_retry_after_s(answer))
        if answer.status_code == 206 and have:
            if not answer.headers.get("Content-Range", "").startswith(f"bytes {have}-"):
                file.truncate(0)
                raise _AgainError
        elif answer.status_code == 200:
            file.truncate(0)
        elif answer.status_code == 416:
            file.truncate(0)
            raise _AgainError
        else:
            raise DownloadError(f"the file was answered with {answer.status_code}")


def _retry_after_s(answer: httpx.Response) -> float:
    text = answer.headers.get("Retry-After", "")
    return min(float(text), LONGEST_RETRY_AFTER_S) if text.isascii() and text.isdigit() else 0.0
