"""Changes of commands or updates on their way to the disk: gathered for one turn of the loop, committed together."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Generic, Protocol, TypeVar

from appliance.errors import StoreUnavailableError
from appliance.store.outbox import Work

OutcomeT = TypeVar("OutcomeT")
CHANGES_PER_JOB = 64
"""A job of the writer stays below a few milliseconds."""


class Rows(Protocol[OutcomeT]):
    """The table that is changed."""

    def submit(
        self, changes: Sequence[Callable[[Work], OutcomeT]], *, receipt: object = None
    ) -> asyncio.Future[list[OutcomeT]]:
        """Make changes in one job, in their order; an outcome for each, after the commit."""


@dataclass(slots=True)
class _Pending(Generic[OutcomeT]):
    number: int
    change: Callable[[Work], OutcomeT]
    then: Callable[[OutcomeT], None]
    failed: Callable[[StoreUnavailableError], None] | None


class ChangeQueue(Generic[OutcomeT]):
    """Hands changes to a table in their order. When nothing can be stored, they wait for :meth:`retry`.

    ``crashed`` is told of anything else that goes wrong: a mistake of ours, which must end the process.
    """

    def __init__(self, rows: Rows[OutcomeT], *, crashed: Callable[[BaseException], None]) -> None:
        self._rows = rows
        self._crashed = crashed
        self._pending: deque[_Pending[OutcomeT]] = deque()
        self._added = 0
        self._flush_scheduled = False
        self.stalled = False
        """Nothing could be stored; changes wait for :meth:`retry`."""

    def add(
        self,
        change: Callable[[Work], OutcomeT],
        then: Callable[[OutcomeT], None],
        *,
        failed: Callable[[StoreUnavailableError], None] | None = None,
    ) -> None:
        """Make ``change``, then call ``then`` on the event loop once it is committed.

        With ``failed`` a change that cannot be stored is dropped and ``failed`` called; without it is tried again.
        """
        self._added += 1
        self._pending.append(_Pending(self._added, change, then, failed))
        if not self._flush_scheduled:
            self._flush_scheduled = True
            asyncio.get_running_loop().call_soon(self._flush_scheduled_now)

    def flush(self) -> None:
        """Hand over now what has gathered, so that it goes before whatever the caller hands over next."""
        if self.stalled:
            return
        pending = self._pending
        while pending:
            group = [pending.popleft() for _ in range(min(len(pending), CHANGES_PER_JOB))]
            self._rows.submit([item.change for item in group]).add_done_callback(partial(self._done, group))

    def retry(self) -> None:
        """Try again what could not be stored."""
        self.stalled = False
        self.flush()

    def _flush_scheduled_now(self) -> None:
        self._flush_scheduled = False
        self.flush()

    def _done(self, group: list[_Pending[OutcomeT]], future: asyncio.Future[list[OutcomeT]]) -> None:
        if future.cancelled():
            return
        error = future.exception()
        try:
            if error is None:
                for item, outcome in zip(group, future.result(), strict=True):
                    item.then(outcome)
            elif isinstance(error, StoreUnavailableError):
                self._put_back(group, error)
            else:
                raise error
        except Exception as bug:
            self._crashed(bug)

    def _put_back(self, group: list[_Pending[OutcomeT]], error: StoreUnavailableError) -> None:
        self.stalled = True
        waiting = [*self._pending, *(item for item in group if item.failed is None)]
        self._pending = deque(sorted(waiting, key=lambda item: item.number))
        for item in group:
            if item.failed is not None:
                item.failed(error)
