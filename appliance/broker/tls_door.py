"""Accepting TLS connections with a bound on what strangers may cost before their handshake is done.

A handshake that is under way holds some 46 kB, and the protocol above hears nothing of it until it is over. So sockets
wait here as they are, for little more than a file descriptor, and only some of them shake hands at a time: a fleet that
reconnects at once is served at the speed of the processor, and sockets that say nothing take nobody's memory.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import socket
import ssl
from collections import OrderedDict, deque
from collections.abc import Callable

log = logging.getLogger(__name__)

MOST_HANDSHAKES = 512
MOST_WAITING = 8192
HANDSHAKE_S = 15.0
HANDSHAKE_WHILE_OTHERS_WAIT_S = 3.0
"""By then every honest one of that many is through, on any machine that can carry the fleet at all."""
ACCEPT_AT_ONCE = 64
REST_S = 1.0
"""After the machine has run out of descriptors."""
_EXHAUSTED = {errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM}


class TlsDoor:
    """A listening socket; each connection whose handshake succeeds gets a protocol of ``factory``."""

    def __init__(
        self,
        *,
        host: str,
        port: int,
        context: ssl.SSLContext,
        factory: Callable[[], asyncio.Protocol],
        backlog: int,
        most_handshakes: int = MOST_HANDSHAKES,
        most_waiting: int = MOST_WAITING,
        listening: socket.socket | None = None,
    ) -> None:
        """Binds at once; ``OSError`` if that is not possible. A socket that is ``listening`` already is taken as it
        is."""
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        self.socket = listening or socket.create_server((host, port), family=family, backlog=backlog)
        self.socket.setblocking(False)
        self._context = context
        self._factory = factory
        self._most_handshakes = most_handshakes
        self._most_waiting = most_waiting
        self._loop = asyncio.get_running_loop()
        self.accepted = 0
        """Sockets, since the start."""
        self._waiting: deque[socket.socket] = deque()
        self._handshakes: OrderedDict[asyncio.Task[None], float] = OrderedDict()
        self._rest: asyncio.TimerHandle | None = None
        self._loop.add_reader(self.socket, self._accept)

    @property
    def pending(self) -> int:
        """Connections that wait or shake hands."""
        return len(self._waiting) + len(self._handshakes)

    async def close(self) -> None:
        """Stop accepting, and end what has not shaken hands."""
        if self._rest is not None:
            self._rest.cancel()
        self._loop.remove_reader(self.socket)
        self.socket.close()
        while self._waiting:
            self._waiting.popleft().close()
        tasks = list(self._handshakes)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def sweep(self) -> None:
        """End handshakes that keep others waiting; to be called about once a second."""
        if not self._waiting:
            return
        too_old = self._loop.time() - HANDSHAKE_WHILE_OTHERS_WAIT_S
        for task, since in self._handshakes.items():
            if since > too_old:
                break
            task.cancel()

    def _accept(self) -> None:
        for _ in range(ACCEPT_AT_ONCE):
            try:
                client, _ = self.socket.accept()
            except (BlockingIOError, InterruptedError, ConnectionAbortedError):
                break
            except OSError as error:
                if error.errno not in _EXHAUSTED:
                    raise
                log.error("no connection can be accepted for %g s: %s", REST_S, error.strerror)
                self._loop.remove_reader(self.socket)
                self._rest = self._loop.call_later(REST_S, self._loop.add_reader, self.socket, self._accept)
                break
            self.accepted += 1
            client.setblocking(False)
            if len(self._waiting) >= self._most_waiting:
                client.close()
            else:
                self._waiting.append(client)
        self._admit()

    def _admit(self) -> None:
        while self._waiting and len(self._handshakes) < self._most_handshakes:
            task = self._loop.create_task(self._shake_hands(self._waiting.popleft()), name="tls-handshake")
            self._handshakes[task] = self._loop.time()
            task.add_done_callback(self._done)

    def _done(self, task: asyncio.Task[None]) -> None:
        del self._handshakes[task]
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("a TLS connection could not be taken over", exc_info=error)
        self._admit()

    async def _shake_hands(self, client: socket.socket) -> None:
        try:
            await self._loop.connect_accepted_socket(
                self._factory, client, ssl=self._context, ssl_handshake_timeout=HANDSHAKE_S
            )
        except (OSError, EOFError) as error:
            # scanners, clients that do not trust us, clients that went away
            log.debug("a TLS handshake failed: %s", error)
            client.close()
        except asyncio.CancelledError:
            client.close()
            raise
