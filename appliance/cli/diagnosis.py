"""What support is told of a box: gathered, freed of secrets, bounded, and put into one archive."""

from __future__ import annotations

import dataclasses
import io
import json
import os
import tarfile
import tempfile
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

from pydantic import SecretStr

from appliance.cli import machine
from appliance.cli.check import as_document
from appliance.cli.checks import Surroundings, make_checks
from appliance.cli.scrubbing import Scrubber, secrets_of

MOST_MEMBER_BYTES = 2 << 20
MOST_BYTES = 10 << 20
"""Of all members together."""
_ASKED = {"metrics.txt": "/metrics", "buffer.json": "/api/v1/buffer", "api-keys.json": "/api/v1/api-keys"}


def members(box: Surroundings) -> Iterator[tuple[str, str]]:
    """Name and text of each, without secrets. One that cannot be had says why instead."""
    scrubber = Scrubber(secrets_of(box.settings) if box.usable else ())
    sources: dict[str, Callable[[], Any]] = {
        "about.json": machine.about,
        "settings.json": lambda: _settings(box),
        "checks.json": lambda: _checks(box),
        "machine.txt": machine.machine_text,
        "log.txt": machine.log_text,
    }
    if box.usable:
        sources |= {
            "files.txt": lambda: machine.folder_text(box.folder),
            "contents.json": lambda: dataclasses.asdict(box.contents),
            "health.json": lambda: box.health if box.running else "it does not run",
        }
        if box.running:
            sources |= {member: partial(box.ask, path) for member, path in _ASKED.items()}
    for name, source in sources.items():
        try:
            found = source()
        except Exception as error:
            found = f"({type(error).__name__}: {error})"
        text = found if isinstance(found, str) else json.dumps(found, indent=1, default=str)
        yield name, scrubber.clean(text)


def write_archive(path: Path, texts: Iterator[tuple[str, str]]) -> list[str]:
    """Put the members into a ``tar.gz`` that appears at once, for this user alone; their names. ``OSError``."""
    names, left = [], MOST_BYTES
    descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=".iiot-diag-")
    try:
        with os.fdopen(descriptor, "wb") as file, tarfile.open(fileobj=file, mode="w:gz") as tar:
            for name, text in texts:
                # of a log the end counts
                content = text.encode()[-min(MOST_MEMBER_BYTES, left) :] if left else b""
                left -= len(content)
                info = tarfile.TarInfo(f"iiot-diag/{name}")
                info.size, info.mode = len(content), 0o600
                tar.addfile(info, io.BytesIO(content))
                names.append(name)
        os.replace(temporary, path)
    finally:
        with suppress(FileNotFoundError):
            os.unlink(temporary)
    return names


def _settings(box: Surroundings) -> dict[str, Any]:
    """Every setting; of a secret only whether it is set. What was refused stands among the problems."""
    found = box.findings
    told: dict[str, Any] = {"problems": found.problems, "unknown": found.unknown, "cautions": found.cautions}
    if box.usable:
        given = box.settings.model_fields_set
        told["settings"] = {
            name.upper(): {"value": _shown(getattr(box.settings, name)), "given": name in given}
            for name in type(box.settings).model_fields
        }
    return told


def _shown(value: object) -> object:
    if isinstance(value, SecretStr):
        return "(set)"
    return value if isinstance(value, (bool, int, float, str)) or value is None else str(value)


def _checks(box: Surroundings) -> dict[str, Any]:
    return as_document(list(make_checks(box)))
