"""A command's life as the API and Odoo see it: the order, its states, and what is told of each change."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, StringConstraints

from appliance.contract.device import DeviceId

COMMAND_ID_PATTERN = r"[A-Za-z0-9][A-Za-z0-9._:-]{0,63}"
"""UUIDs as a rule; any name that can stand in a URL."""
LONGEST_EXPIRY_S = 30 * 86_400

CommandId = Annotated[str, StringConstraints(pattern=f"^{COMMAND_ID_PATTERN}$")]
CommandState = Literal["queued", "sent", "delivered", "done", "failed", "expired", "cancelled"]
Deliver = Literal["at_least_once", "at_most_once"]
FailureReason = Literal["no_ack", "device"]
"""``no_ack``: never acknowledged; ``device``: the device answered with an error."""


def _null_is_empty(value: object) -> object:
    return {} if value is None else value


class SendCommand(BaseModel):
    """The body of ``POST /api/v1/command/send``.

    ``payload`` is sent as it is: text as UTF-8, an object or array as compact JSON; nothing is added to it. Without it
    the device's template is rendered with ``action`` and ``params``. ``expires_in_s`` replaces the device's own limit.
    """

    model_config = ConfigDict(frozen=True, extra="ignore")

    device_id: DeviceId
    action: Annotated[str, StringConstraints(min_length=1, max_length=128)]
    params: Annotated[dict[str, Any], BeforeValidator(_null_is_empty)] = Field(default_factory=dict)
    payload: str | dict[str, Any] | list[Any] | None = None
    command_id: CommandId | None = None
    expires_in_s: Annotated[float, Field(gt=0, le=LONGEST_EXPIRY_S, allow_inf_nan=False)] | None = None
    deliver: Deliver = "at_least_once"


class CommandEvent(BaseModel):
    """One change of a command. ``delivery`` counts the sendings, ``late`` marks news that overrule an earlier end."""

    model_config = ConfigDict(frozen=True)

    state: CommandState
    at: str
    delivery: int | None = None
    reason: str | None = None
    late: bool | None = None


class CommandStatus(BaseModel):
    """What is known of a command. ``settled``: nothing more is awaited. ``response``: the device's last answer."""

    model_config = ConfigDict(frozen=True)

    command_id: str
    device_id: str
    action: str
    state: CommandState
    reason: str | None = None
    deliver: Deliver
    deliveries: int
    settled: bool
    created_at: str
    expires_at: str
    response: Any = None
    response_bytes: int | None = None
    """Size of an answer that is too long to be kept here; Odoo has it whole."""
    history: list[CommandEvent]


def state_message(
    command_id: str,
    state: CommandState,
    at: str,
    *,
    delivery: int | None = None,
    reason: str | None = None,
    late: bool = False,
) -> tuple[bytes, str]:
    """The ``COMMAND_STATE`` payload of a change, and the same as an entry of the command's history.

    Plain text work: it runs several times for each command, and none of the values needs escaping.
    """
    entry = f'"state":"{state}","at":"{at}"'
    if delivery is not None:
        entry += f',"delivery":{delivery}'
    if reason is not None:
        entry += f',"reason":"{reason}"'
    if late:
        entry += ',"late":true'
    return f'{{"command_id":"{command_id}",{entry}}}'.encode(), f"{{{entry}}}"
