"""How a device obeys: each command once, and an answer to it."""

from __future__ import annotations

import asyncio
import json
from collections import deque
from collections.abc import Callable
from typing import Any

from firmware_sim.faults import Misbehaviour

REMEMBERED = 100


class Orders:
    """Takes commands and hands answers to ``say``; ``note`` writes events down, ``report`` is what it answers."""

    def __init__(
        self,
        *,
        misbehaviour: Misbehaviour,
        say: Callable[[dict[str, Any]], None],
        note: Callable[[str, str | None], None],
        report: Callable[[], dict[str, Any]],
        log: Callable[[str], None],
    ) -> None:
        self._misbehaviour = misbehaviour
        self._say = say
        self._note = note
        self._report = report
        self._log = log
        self._seen: deque[str] = deque(maxlen=REMEMBERED)

    def take(self, payload: bytes) -> None:
        """Carry out a command once. ``fail`` is answered with an error, ``ignore`` not at all, all else with ok."""
        command = _json_object(payload)
        command_id = command.get("command_id")
        if isinstance(command_id, str):
            if command_id in self._seen:
                self._note("repeat", command_id)
                return
            self._seen.append(command_id)
        else:
            command_id = None
        action = command.get("action")
        self._note("cmd", command_id)
        self._log(f"command {action}")
        if action != "ignore":
            self._answer(command_id, action)

    def _answer(self, command_id: str | None, action: object) -> None:
        answer: dict[str, Any] = {} if command_id is None else {"command_id": command_id}
        if action == "fail":
            answer |= {"status": "error", "error": "failed as it was told to"}
        else:
            answer |= {"status": "ok", "result": {"action": action, **self._report()}}
        if self._misbehaviour.now("no-answer"):
            return
        times = 2 if self._misbehaviour.now("twice-answer") else 1
        late_s = self._misbehaviour.get("late-answer")
        for _ in range(times):
            if late_s is None:
                self._say(answer)
            else:
                asyncio.get_running_loop().call_later(late_s, self._say, answer)


def _json_object(payload: bytes) -> dict[str, Any]:
    """What the payload says, if it is a JSON object; a template may render anything."""
    try:
        value = json.loads(payload)
    except ValueError:
        return {}
    return value if isinstance(value, dict) else {}
