"""A configuration that the appliance sends to a paired device by itself, or because it was asked."""

from __future__ import annotations

from appliance.contract.device import ConfigOk
from firmware_sim.credentials import Credentials
from firmware_sim.pairing import Contact, parse_answer


def taken_over(payload: bytes, before: Credentials, contact: Contact) -> Credentials | None:
    """What the device is from now on; ``None`` if that is no configuration. ``ValueError`` if it cannot be used."""
    answer = parse_answer(payload)
    if not isinstance(answer, ConfigOk):
        return None
    if contact.same_address:
        kept = before.mqtt.model_dump(include={"host", "port", "tls"})
        answer = answer.model_copy(update={"mqtt": answer.mqtt.model_copy(update=kept)})
    try:
        return Credentials.from_answer(answer, before)
    except TypeError as error:
        raise ValueError(str(error)) from None


def needs_new_connection(before: Credentials, after: Credentials) -> bool:
    """Whether it changes where the device connects, as whom, or on what topics."""
    return (after.mqtt, after.password, after.topics) != (before.mqtt, before.password, before.topics)
