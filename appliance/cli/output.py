"""How results are printed: for people as aligned columns, for programs as one line of JSON."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from appliance.cli.exits import printable

EnvFile = Annotated[
    Path | None,
    typer.Option(
        envvar="APPLIANCE_ENV_FILE", help="Read settings from this file instead of .env in the working directory."
    ),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print the result as one line of JSON.")]


def print_json(value: object) -> None:
    """One line; everything beyond ASCII is escaped, so that no terminal acts upon what a device has sent."""
    typer.echo(json.dumps(value, separators=(",", ":")))


def print_table(heads: Sequence[str], rows: Iterable[Sequence[object]], *, empty: str) -> None:
    """Columns as wide as their widest cell; the sentence ``empty`` where there are no rows."""
    lines = [[cell(value) for value in row] for row in rows]
    if not lines:
        typer.echo(empty)
        return
    lines.insert(0, [head.upper() for head in heads])
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    for line in lines:
        typer.echo("  ".join(text.ljust(width) for text, width in zip(line, widths, strict=True)).rstrip())


def print_facts(facts: Iterable[tuple[str, object]]) -> None:
    """A name and a value in each line."""
    known = [(name, cell(value)) for name, value in facts]
    width = max(len(name) for name, _ in known)
    for name, value in known:
        typer.echo(f"{name.ljust(width)}  {value}".rstrip())


def cell(value: object) -> str:
    """A value as people read it."""
    if value is None or value == "":
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:,.1f}"
    if isinstance(value, (dict, list)):
        return json.dumps(value, separators=(",", ":"))
    return printable(str(value))


def size(count: object) -> str:
    """Bytes in the unit that makes a short number."""
    if not isinstance(count, (int, float)):
        return "-"
    left = float(count)
    for unit in ("bytes", "KiB", "MiB", "GiB"):
        if left < 1024:
            return f"{left:.0f} {unit}" if unit == "bytes" else f"{left:.1f} {unit}"
        left /= 1024
    return f"{left:.1f} TiB"


def duration(seconds: object) -> str:
    """Seconds in the two largest units that they fill."""
    if not isinstance(seconds, (int, float)):
        return "-"
    left = int(seconds)
    found: list[str] = []
    for unit, length in (("d", 86_400), ("h", 3600), ("min", 60), ("s", 1)):
        if left >= length or (unit == "s" and not found):
            found.append(f"{left // length} {unit}")
            left %= length
    return " ".join(found[:2])


def at(document: Any, *path: str) -> Any:
    """A value inside nested objects, or ``None`` where one of them is missing."""
    for name in path:
        document = document.get(name) if isinstance(document, dict) else None
    return document
