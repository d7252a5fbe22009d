"""Who else may read the secrets."""

from __future__ import annotations

import stat
from collections.abc import Iterator
from pathlib import Path

from appliance.cli.checks.base import Check, Finding, failed, ok, skipped, warning
from appliance.cli.checks.surroundings import Surroundings
from appliance.settings import DOT_ENV

_OTHERS = stat.S_IRWXO
_GROUP_AND_OTHERS = stat.S_IRWXG | stat.S_IRWXO
_NO_SECRETS = ("appliance.db", "lock", "ballast")
"""How files begin that hold no key. Where nobody else may look into the folder, nobody gets at the readings either."""


class PermissionsCheck(Check):
    """Keys, certificates' keys and the settings file."""

    name, title = "permissions", "Secrets' permissions"

    def look(self, box: Surroundings) -> Iterator[Finding]:
        """Each file that others may read, or that belongs to somebody else."""
        if not box.folder.is_dir():
            yield skipped("there is no data folder yet")
            return
        found = [*_of_folder(box.folder), *_of_settings(box.env_file or DOT_ENV)]
        yield from found or [ok("nobody else may read them")]


def _of_folder(folder: Path) -> Iterator[Finding]:
    owner = folder.stat().st_uid
    if folder.stat().st_mode & _OTHERS:
        yield failed(f"others may look into {folder}", f"chmod o-rwx {folder}")
    for path in (*sorted(folder.iterdir()), *sorted((folder / "tls").glob("*"))):
        if not path.is_file() or path.is_symlink() or path.name.startswith(_NO_SECRETS):
            continue
        found = path.stat()
        if found.st_mode & _GROUP_AND_OTHERS:
            yield failed(f"{path} may be used by others (mode {stat.S_IMODE(found.st_mode):o})", f"chmod go-rwx {path}")
        if found.st_uid != owner:
            yield warning(f"{path} belongs to another user than the data folder", f"chown --reference={folder} {path}")


def _of_settings(path: Path) -> Iterator[Finding]:
    try:
        mode = path.stat().st_mode
    except OSError:
        return
    if mode & _OTHERS:
        yield failed(f"others may read the settings in {path}, which may hold keys", f"chmod o-rwx {path}")
