"""Root folders of bare Debian systems, made once by debootstrap and kept in the cache; nobody writes to them."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

from tests.odoo.cache import cache_folder, make, say, short_hash

PACKAGES = {
    # what a box without internet has at the least: neither pip nor the package that makes Python environments
    "bookworm": ("systemd", "systemd-sysv", "dbus", "python3", "ca-certificates", "iproute2", "procps"),
    # a box with internet would have fetched the last one
    "trixie": ("systemd", "systemd-sysv", "dbus", "python3", "ca-certificates", "iproute2", "procps", "python3-venv"),
}


def debian(suite: str) -> Path:
    """The root folder of that Debian."""
    packages = PACKAGES[suite]

    def build(folder: Path) -> None:
        say(f"Making a bare Debian {suite} for the installation's tests (once; a minute or two)")
        command = [
            "debootstrap",
            "--variant=minbase",
            f"--include={','.join(packages)}",
            suite,
            str(folder),
            mirror(),
        ]
        made = subprocess.run(command, capture_output=True, text=True, check=False)
        if made.returncode:
            raise RuntimeError(f"debootstrap {suite}: {made.stdout[-2000:]}{made.stderr[-2000:]}")
        shutil.rmtree(folder / "var/cache/apt", ignore_errors=True)

    return make(cache_folder() / "roots" / f"{suite}-{short_hash(packages)}", build)


def mirror() -> str:
    """Where this machine's own apt gets Debian from."""
    listed = subprocess.run(
        ["apt-get", "indextargets", "--format", "$(ORIGIN) $(LABEL) $(SITE)", "Created-By: Packages"],
        capture_output=True,
        text=True,
        check=True,
    )
    found = [line.split()[2] for line in listed.stdout.splitlines() if line.startswith("Debian Debian ")]
    if not found:
        raise RuntimeError("this machine's apt has no Debian mirror")
    return found[0]
