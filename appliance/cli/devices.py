"""``devices``: who is paired, and why one is offline."""

from __future__ import annotations

from collections.abc import Iterator
from enum import StrEnum
from typing import Annotated, Any
from urllib.parse import quote

import typer

from appliance.cli.box import Box, connected
from appliance.cli.output import AsJson, EnvFile, at, print_facts, print_json, print_table

PAGE = 500

devices = typer.Typer(no_args_is_help=True, help="List devices, or look at one.")


class Connection(StrEnum):
    """Whether a device is connected."""

    online = "online"
    offline = "offline"
    unknown = "unknown"


@devices.command("list")
def list_devices(
    status: Annotated[Connection | None, typer.Option(help="Only those that are so.")] = None,
    search: Annotated[str | None, typer.Option(help="Only those with this in their id or serial number.")] = None,
    env_file: EnvFile = None,
    as_json: AsJson = False,
) -> None:
    """List the devices that are paired."""
    with connected(env_file) as box:
        found = list(_pages(box, {"status": status.value if status else None, "search": search}))
    if as_json:
        print_json({"devices": found})
        return
    print_table(
        ("device", "serial", "status", "since", "last telemetry", "firmware", "commands", "reason"),
        (
            (
                *(at(device, "device_id"), at(device, "serial"), at(device, "connection", "status")),
                *(at(device, "connection", "since"), at(device, "last_telemetry"), at(device, "firmware_version")),
                *(at(device, "open_commands"), at(device, "connection", "reason")),
            )
            for device in found
        ),
        empty="No device fits." if status or search else "No device is paired.",
    )


def _pages(box: Box, query: dict[str, Any]) -> Iterator[dict[str, Any]]:
    after = ""
    while after is not None:
        page = box.get("/api/v1/devices/status", {**query, "after": after, "limit": PAGE})
        yield from page["devices"]
        after = page["next"]


@devices.command("show")
def show_device(
    device_id: Annotated[str, typer.Argument(metavar="DEVICE", help="The device's id.")],
    env_file: EnvFile = None,
    as_json: AsJson = False,
) -> None:
    """Show one device: connection, counters, and why it is offline."""
    with connected(env_file) as box:
        found = box.get(f"/api/v1/device/{quote(device_id, safe='')}/status")
    if as_json:
        print_json(found)
    else:
        print_facts(_facts(found))


def _facts(value: dict[str, Any], path: str = "") -> Iterator[tuple[str, object]]:
    """Every field, nested ones after the name of what they are in."""
    for name, inner in value.items():
        label = f"{path}{name}".replace("_", " ")
        if isinstance(inner, dict):
            yield from _facts(inner, f"{label} ")
        elif isinstance(inner, list):
            yield label, len(inner) or "none"
            for item in inner:
                yield "", ", ".join(f"{key} {each}" for key, each in item.items()) if isinstance(item, dict) else item
        else:
            yield label, inner
