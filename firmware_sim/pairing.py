"""How an unpaired device gets its credentials over MQTT: subscribe, wait for SUBACK, ask, and ask again until told."""

from __future__ import annotations

import asyncio
import uuid
from dataclasses import dataclass, field
from random import Random
from typing import Any

from pydantic import ValidationError

from appliance.contract.device import ConfigOk, ConfigPending, ConfigRefused, ConfigRequest, encode
from appliance.contract.topics import TopicTemplates
from firmware_sim import trust
from firmware_sim.backoff import Backoff
from firmware_sim.credentials import Credentials, CredentialStore
from firmware_sim.link import LinkError, MqttLink, first_of

ANSWER_TIMEOUT_S = 45.0
LONGEST_WAIT_S = 300.0
NOT_GRANTED = 128


class PairingRefusedError(Exception):
    """The appliance refused for good; ``code`` is the contract's."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(f"{code}: {message}")
        self.code = code


@dataclass(frozen=True, slots=True, kw_only=True)
class Contact:
    """Where an unpaired device finds the appliance, what it trusts there, and the names it was built with.

    ``same_address`` keeps a paired device at this address whatever the answer says (a test's plain listener).
    ``files_ca_pem``: whom to trust for firmware, where MQTT goes without TLS.
    """

    host: str
    port: int
    ca_pem: str | None
    same_address: bool = False
    files_ca_pem: str | None = None
    topics: TopicTemplates = field(default_factory=TopicTemplates)


@dataclass(frozen=True, slots=True, kw_only=True)
class Label:
    """What stands on the device: serial number, one-time token, firmware, hardware."""

    serial: str
    token: str | None = field(default=None, repr=False)
    firmware_version: str = "1.0.0"
    hardware: str = "simulated press"


async def pair(
    *,
    label: Label,
    contact: Contact,
    store: CredentialStore,
    random: Random,
    connecting: asyncio.Semaphore,
    backoff: Backoff,
) -> Credentials:
    """Ask until the appliance has answered and the credentials are stored. ``PairingRefusedError`` ends it."""
    request_id = store.request_id(str(uuid.UUID(int=random.getrandbits(128), version=4)))
    request = ConfigRequest(
        serial=label.serial,
        token=label.token,
        request_id=request_id,
        firmware_version=label.firmware_version,
        hardware=label.hardware,
    )
    while True:
        try:
            answer = await _ask(request, contact, connecting)
        except LinkError:
            await asyncio.sleep(backoff.next_s())
            continue
        if isinstance(answer, ConfigOk):
            credentials = Credentials.from_answer(_pinned(answer, contact))
            store.save(credentials)
            backoff.reset()
            return credentials
        if isinstance(answer, ConfigRefused) and answer.code != "rate_limited":
            raise PairingRefusedError(answer.code, answer.message)
        wait_s = min(float(answer.retry_after_s or 1), LONGEST_WAIT_S)
        await asyncio.sleep(wait_s * random.uniform(1.0, 1.2))


async def _ask(
    request: ConfigRequest, contact: Contact, connecting: asyncio.Semaphore
) -> ConfigOk | ConfigPending | ConfigRefused:
    """One connection, one question, one answer; ``LinkError`` if there was none."""
    answered: asyncio.Future[ConfigOk | ConfigPending | ConfigRefused] = asyncio.get_running_loop().create_future()

    def receive(_topic: str, payload: bytes) -> None:
        answer = parse_answer(payload)
        if answer is not None and answer.request_id == request.request_id and not answered.done():
            answered.set_result(answer)

    # unpaired connections are few at a time: the appliance limits them per address
    async with connecting:
        link = MqttLink(
            client_id=request.serial,
            trust=trust.context(contact.ca_pem) if contact.ca_pem else None,
            on_message=receive,
            on_ack=lambda _mid: None,
        )
        await link.open(contact.host, contact.port)
        try:
            topic = contact.topics.answer_topic(request.serial)
            if NOT_GRANTED in await link.subscribe([topic]):
                raise LinkError(f"no subscription to {topic}")
            link.publish(contact.topics.config_request, encode(request))
            await first_of(answered, link.closed, timeout_s=ANSWER_TIMEOUT_S)
            if not answered.done():
                raise LinkError(link.closed.result() if link.closed.done() else "no answer")
            return answered.result()
        finally:
            await link.close()


def parse_answer(payload: bytes) -> ConfigOk | ConfigPending | ConfigRefused | None:
    """A configuration answer, or ``None`` if it is none."""
    models: tuple[type[Any], ...] = (ConfigOk, ConfigPending, ConfigRefused)
    for model in models:
        try:
            answer: ConfigOk | ConfigPending | ConfigRefused = model.model_validate_json(payload)
        except ValidationError:
            continue
        return answer
    return None


def _pinned(answer: ConfigOk, contact: Contact) -> ConfigOk:
    """The answer with the authority that this device has checked, and where told so with the address it knows."""
    update: dict[str, Any] = {}
    if contact.ca_pem is not None:
        update["ca_pem"] = contact.ca_pem
    if contact.same_address:
        update |= {"host": contact.host, "port": contact.port, "tls": contact.ca_pem is not None}
    return answer.model_copy(update={"mqtt": answer.mqtt.model_copy(update=update)})
