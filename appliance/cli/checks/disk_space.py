"""How much of the disk is left."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator

from appliance.cli.checks.base import Check, Finding, failed, ok, skipped, warning
from appliance.cli.checks.data_folder import nearest_existing, problems
from appliance.cli.checks.surroundings import Surroundings
from appliance.cli.exits import Exit

MIB = 1 << 20
LEAST_FREE_BYTES = 64 * MIB
"""The buffer file's log and what is put by for a full disk; with less the appliance hardly begins."""
LEAST_FREE_FILES = 1000
_REMEDY = "remove what is not needed on this disk, or lower IIOT_BUFFER_QUOTA_MB and IIOT_FIRMWARE_QUOTA_MB"


class DiskSpaceCheck(Check):
    """Of the disk with the data folder."""

    name, title = "disk_space", "Disk space"
    before_start = True

    def look(self, box: Surroundings) -> Iterator[Finding]:
        """Room for the buffer, and for files at all."""
        folder = box.folder
        if any(problems(folder)):
            yield skipped("the data folder cannot be used")
            return
        try:
            free = shutil.disk_usage(nearest_existing(folder)).free
            used = sum(path.stat().st_size for path in folder.glob("appliance.db*")) if folder.is_dir() else 0
            files = os.statvfs(nearest_existing(folder))
        except OSError as error:
            yield failed(f"IIOT_DATA_DIR: {error.strerror}", "look at the disk", status=Exit.DATA_FOLDER)
            return
        quota = box.settings.iiot_buffer_quota_mb * MIB
        if free < LEAST_FREE_BYTES:
            text = f"only {free // MIB} MiB are free on the disk of {folder}"
            yield failed(text, _REMEDY, status=Exit.DATA_FOLDER)
        elif free < quota - used:
            yield warning(
                f"the disk is full before the buffer is: {free // MIB} MiB are free, IIOT_BUFFER_QUOTA_MB is larger",
                _REMEDY,
            )
        elif files.f_files and files.f_favail < LEAST_FREE_FILES:
            yield failed(f"the disk of {folder} has room for {files.f_favail} more files only", _REMEDY)
        else:
            yield ok(f"{free // MIB} MiB are free on the disk of {folder}")
