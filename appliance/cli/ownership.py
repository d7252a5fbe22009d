"""What root makes in the data folder belongs to whom the folder belongs: the service could not read it otherwise."""

from __future__ import annotations

import os
import stat
from contextlib import suppress
from pathlib import Path


def give_to_owner(folder: Path) -> None:
    """Give away what is root's in the data folder, two levels deep, if this is root and the folder is not."""
    owner = folder.stat()
    if os.geteuid() != 0 or owner.st_uid == 0:
        return
    for path in (*folder.iterdir(), *folder.glob("tls/*"), folder / "tls"):
        with suppress(OSError):  # it is gone, or a link, and none of ours
            descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
            try:
                found = os.fstat(descriptor)
                # another name of a file elsewhere is not ours to give away
                ours = stat.S_ISDIR(found.st_mode) or (stat.S_ISREG(found.st_mode) and found.st_nlink == 1)
                if found.st_uid == 0 and ours:
                    os.fchown(descriptor, owner.st_uid, owner.st_gid)
            finally:
                os.close(descriptor)
