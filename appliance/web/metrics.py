"""``GET /metrics`` in Prometheus's text format. No metric has a label by device: ten thousand devices cost the same."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator, Mapping
from dataclasses import dataclass

from prometheus_client import CollectorRegistry, ProcessCollector, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector
from starlette.requests import Request
from starlette.responses import Response

from appliance.store.buffer import Backlog
from appliance.store.dead_letters import Stock
from appliance.store.ledger import LedgerLine
from appliance.store.parked import MOST_PARKED, MOST_PARKED_BYTES
from appliance.web.routes import Media, describes

MEDIA_TYPE = "text/plain; version=0.0.4; charset=utf-8"


@dataclass(frozen=True, slots=True, kw_only=True)
class StoreFigures:
    """What the store says; it must be asked."""

    total: LedgerLine
    stock: Stock


@dataclass(frozen=True, slots=True, kw_only=True)
class Figures:
    """All that is measured, at one moment."""

    version: str
    store: StoreFigures | None
    """``None`` while nothing can be stored, and so nothing asked."""
    backlog: Backlog
    now_ms: int
    """Milliseconds since 1970, for the age of the oldest message."""
    queued: int
    """Rows and jobs that wait for the next commit."""
    connections: int
    connections_accepted: int
    viewer_sessions: int
    local_sessions: int
    passed_on_dropped: int
    passed_on_stalled: bool
    local_subscriptions_refused: int
    devices_online: int
    devices_paired: int
    commands_open: int
    updates_open: int
    firmware_bytes: int
    """Of all firmware files here."""
    firmware_downloads: int
    """Of devices, now."""
    firmware_bytes_sent: int
    uplink_up: bool | None
    """``None`` without Odoo, or before the first attempt."""
    uplink_alarm: bool
    uplink_batches: int
    uplink_settled: int
    uplink_failures: int
    uplink_consecutive_failures: int
    disk: Mapping[str, int]
    """``total_bytes``, ``free_bytes``, ``file_bytes``; empty before the first look."""
    quota_bytes: int
    commits: int
    readings_per_s: float | None
    ledger_adds_up: bool | None
    """``None``: not known now."""


class MetricsRoute:
    """``/metrics``, from a registry of its own."""

    def __init__(self, read: Callable[[], Awaitable[Figures]]) -> None:
        self._read = read
        self._registry = CollectorRegistry()
        self._collector = _Collector()
        self._registry.register(self._collector)
        ProcessCollector(registry=self._registry)

    @describes(Media("text/plain"))
    async def metrics(self, _: Request) -> Response:
        """All metrics. What cannot be known now is left out, the rest is served."""
        # nothing may await between these two lines: scrapes share the collector
        self._collector.figures = await self._read()
        return Response(generate_latest(self._registry), media_type=MEDIA_TYPE)


class _Collector(Collector):
    figures: Figures | None = None

    def collect(self) -> Iterator[Metric]:
        figures = self.figures
        if figures is None:
            return
        build = GaugeMetricFamily("iiot_build_info", "The version that runs; always 1.", labels=["version"])
        build.add_metric([figures.version], 1)
        yield build
        if figures.store is not None:
            yield from _stored(figures.store)
        yield from _now(figures)
        yield from _uplink(figures)
        if figures.readings_per_s is not None:
            rate = figures.readings_per_s
            yield _gauge("iiot_readings_received_per_second", "Readings a second, over the last minute.", rate)
        if figures.ledger_adds_up is not None:
            yield _gauge("iiot_ledger_adds_up", "Whether the ledger adds up: 1 or 0.", int(figures.ledger_adds_up))
        if figures.disk:
            yield _gauge("iiot_disk_total_bytes", "Size of the disk with the data folder.", figures.disk["total_bytes"])
            yield _gauge("iiot_disk_free_bytes", "What is free of it.", figures.disk["free_bytes"])
            yield _gauge("iiot_store_file_bytes", "Size of the buffer file with its log.", figures.disk["file_bytes"])


def _stored(store: StoreFigures) -> Iterator[Metric]:
    total = store.total
    yield _counter("iiot_readings_received_total", "Readings received.", total.received)
    yield _counter("iiot_readings_stored_total", "Readings that Odoo has.", total.stored)
    yield _counter("iiot_readings_removed_total", "Parked readings that were removed for good.", total.removed)
    yield _counter("iiot_readings_repeated_total", "Readings dropped as repeats of a msg_id.", total.repeated)
    yield _counter("iiot_publishes_refused_total", "Publishes that were acknowledged and dropped.", total.refused)
    yield _gauge("iiot_readings_waiting", "Readings that wait for Odoo.", total.waiting)
    yield _gauge("iiot_readings_parked", "Readings in the list of dead letters.", total.parked)
    yield _gauge("iiot_dead_letters", "Messages of any kind in the list of dead letters.", store.stock.rows)
    yield _gauge("iiot_dead_letter_bytes", "Size of their payloads.", store.stock.payload_bytes)
    yield _gauge("iiot_dead_letters_limit", "How many there can be.", MOST_PARKED)
    yield _gauge("iiot_dead_letter_limit_bytes", "How large their payloads can be.", MOST_PARKED_BYTES)


def _now(figures: Figures) -> Iterator[Metric]:
    oldest_ms = figures.backlog.oldest_received_at_ms
    age_s = 0.0 if oldest_ms is None else max(figures.now_ms - oldest_ms, 0) / 1000
    yield _gauge("iiot_messages_waiting", "Messages of any kind that wait for Odoo.", figures.backlog.waiting)
    yield _gauge("iiot_oldest_message_age_seconds", "Age of the oldest of them; 0 if there is none.", age_s)
    yield _gauge("iiot_store_available", "Whether messages can be stored: 1 or 0.", int(figures.store is not None))
    yield _gauge("iiot_store_queue_length", "Messages and jobs that wait for the next commit.", figures.queued)
    yield _counter("iiot_store_commits_total", "Transactions committed since the start.", figures.commits)
    yield _gauge("iiot_store_quota_bytes", "How large the buffer file may become.", figures.quota_bytes)
    yield _gauge("iiot_mqtt_connections", "Open MQTT connections.", figures.connections)
    accepted = figures.connections_accepted
    yield _counter("iiot_mqtt_connections_accepted_total", "MQTT connections accepted since the start.", accepted)
    yield from _passed_on(figures)
    yield _gauge("iiot_devices_online", "Devices that are connected.", figures.devices_online)
    yield _gauge("iiot_devices_paired", "Devices that are paired.", figures.devices_paired)
    yield _gauge("iiot_commands_open", "Commands neither answered nor given up.", figures.commands_open)
    yield _gauge("iiot_updates_open", "Firmware updates that have not ended.", figures.updates_open)
    yield _gauge("iiot_firmware_bytes", "Size of the firmware files that are kept.", figures.firmware_bytes)
    yield _gauge("iiot_firmware_downloads", "Downloads of firmware under way.", figures.firmware_downloads)
    sent = figures.firmware_bytes_sent
    yield _counter("iiot_firmware_sent_bytes_total", "Firmware sent to devices since the start.", sent)


def _passed_on(figures: Figures) -> Iterator[Metric]:
    viewers, machines = figures.viewer_sessions, figures.local_sessions
    yield _gauge("iiot_viewer_sessions", "Sessions of viewers, connected or away.", viewers)
    yield _gauge("iiot_local_sessions", "Sessions of devices with local subscriptions, connected or away.", machines)
    text = "Messages that a viewer or a machine did not get, since the start."
    yield _counter("iiot_passed_on_dropped_total", text, figures.passed_on_dropped)
    stalled = int(figures.passed_on_stalled)
    yield _gauge("iiot_passed_on_stalled", "Whether nothing is passed on to viewers and machines: 1 or 0.", stalled)
    text = "Local subscriptions of devices for which there was no room, since the start."
    yield _counter("iiot_local_subscriptions_refused_total", text, figures.local_subscriptions_refused)


def _uplink(figures: Figures) -> Iterator[Metric]:
    if figures.uplink_up is not None:
        yield _gauge("iiot_uplink_up", "Whether Odoo answered the last attempt: 1 or 0.", int(figures.uplink_up))
    yield _gauge("iiot_uplink_alarm", "Whether somebody must act before anything is sent.", int(figures.uplink_alarm))
    failures = figures.uplink_consecutive_failures
    yield _gauge("iiot_uplink_consecutive_failures", "Attempts that failed since the last good one.", failures)
    failed = figures.uplink_failures
    yield _counter("iiot_uplink_failures_total", "Attempts that went wrong since the start.", failed)
    yield _counter("iiot_uplink_batches_total", "Batches that Odoo answered since the start.", figures.uplink_batches)
    settled = figures.uplink_settled
    yield _counter("iiot_uplink_messages_settled_total", "Messages that Odoo took since the start.", settled)


def _gauge(name: str, text: str, value: float) -> Metric:
    return GaugeMetricFamily(name, text, value=value)


def _counter(name: str, text: str, value: float) -> Metric:
    return CounterMetricFamily(name, text, value=value)
