"""Builds what the status pages need beside the services: password, charts, log lines, facts, enrolment."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine, Iterator, Mapping
from contextlib import AsyncExitStack
from typing import Any

from pydantic import SecretStr

from appliance.contract.times import Clock
from appliance.enrolment import OdooAccess
from appliance.identity import Identity
from appliance.page_password import PagePassword
from appliance.parts.enrolling import Enrolling
from appliance.parts.facts import Facts, Ports, versions
from appliance.parts.health import HealthService
from appliance.parts.log_ring import LogRing
from appliance.parts.trends import Trends
from appliance.services.api_keys import ApiKeys
from appliance.settings import Settings
from appliance.store.database import Database
from appliance.store.peek import Peek
from appliance.web.services import PageServices

PAGE_LOADS_S = 2.0
"""Before the restart after an enrolment: the browser still has to load the page that waits for it, with its script."""


class PageParts:
    """Make it with :func:`build_pages`."""

    def __init__(self, services: PageServices, trends: Trends) -> None:
        self.services = services
        self._trends = trends

    def tasks(self) -> Mapping[str, Coroutine[Any, Any, object]]:
        """What must run, by name."""
        return {"trends": self._trends.run()}


async def build_pages(
    settings: Settings,
    stack: AsyncExitStack,
    *,
    identity: Identity,
    access: OdooAccess | None,
    database: Database,
    api_keys: ApiKeys,
    health: HealthService,
    ports: Ports,
    clock: Clock,
    restart: Callable[[], None],
) -> PageParts:
    """Build them; ``stack`` undoes it. ``DataFolderError`` if the password's file is damaged."""
    password = await asyncio.to_thread(PagePassword.open, settings.iiot_data_dir)
    trends = Trends(look=health.sample, folder=settings.iiot_data_dir, clock=clock)
    await trends.load()
    stack.push_async_callback(trends.save)
    ring = LogRing(list(_secrets(settings, identity, access)))
    root = logging.getLogger()
    root.addHandler(ring)
    stack.callback(root.removeHandler, ring)
    facts = Facts(
        settings=settings,
        identity=identity,
        access=access,
        ports=ports,
        disk=lambda: health.looks.disk,
        clock=clock,
        started_at=clock.monotonic(),
        versions=await asyncio.to_thread(versions),
    )

    def restart_soon() -> None:
        asyncio.get_running_loop().call_later(PAGE_LOADS_S, restart)

    services = PageServices(
        password=password,
        peek=Peek(database),
        trends=trends,
        facts=facts,
        log_lines=ring.lines,
        enrol=Enrolling(
            settings=settings,
            api_keys=api_keys,
            api_url=f"{'https' if settings.http_use_tls else 'http'}://{identity.names[0]}:{ports.http}",
        ),
        restart=restart_soon,
    )
    return PageParts(services, trends)


def _secrets(settings: Settings, identity: Identity, access: OdooAccess | None) -> Iterator[str]:
    """All that the appliance knows of: they are in no log line, and should one slip in it is not shown."""
    yield identity.api_key
    if access is not None:
        yield access.api_key.get_secret_value()
    for name in type(settings).model_fields:
        value = getattr(settings, name)
        if isinstance(value, SecretStr):
            yield value.get_secret_value()
