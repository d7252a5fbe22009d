"""
Odoo 19 as Debian's unstable distribution packages it: unpacked beside the project, never installed, because its
dependencies would upgrade the machine.

The mirror, keys and proxies are those that the machine's own apt is configured with.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from pathlib import Path

from tests.odoo.cache import cache_folder, make, say, short_hash

NEWEST = ["odoo-19", "fonts-montserrat"]
OWN_SUITE = [
    *("fonts-font-awesome", "fonts-roboto-unhinted", "fonts-inconsolata", "fonts-ocr-b"),
    *("libjs-jquery", "libjs-jquery-form", "libjs-underscore"),
]
"""Fonts and scripts the package links to. Unstable's have other paths, so the machine's own suite has them."""

LEFT_OUT = [
    "./usr/lib/python3/dist-packages/addons",  # the Python files a second time
    "*/i18n/*.po",
    "*/odoo/addons/l10n_*",
    "./usr/share/doc",
]
MODULES = "usr/lib/python3/dist-packages"
STUB = f"{MODULES}/odoo/addons/mail/static/lib/selfie_segmentation/selfie_segmentation.js"
RECIPE = short_hash([*NEWEST, *OWN_SUITE, *LEFT_OUT, STUB])


class NoPackageError(Exception):
    """Odoo's package cannot be had here; the message says why."""


def run(command: list[str], cwd: Path | None = None) -> str:
    try:
        result = subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=900, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise NoPackageError(f"{command[0]}: {error}") from error
    if result.returncode:
        lines = [line for line in result.stderr.splitlines() if not line.startswith("W:")]
        raise NoPackageError(f"{command[0]}: {lines[-1] if lines else 'failed'}")
    return result.stdout


def debian_mirror() -> str:
    """The address of the first plain Debian archive in apt's configuration."""
    targets = run(["apt-get", "indextargets", "--format", "$(SITE) $(RELEASE)", "Created-By: Packages"])
    for line in targets.splitlines():
        site, _, release = line.partition(" ")
        if site.rstrip("/").endswith("/debian") and "-" not in release:
            return site
    raise NoPackageError("apt is not configured with a Debian archive")


def unstable_options(folder: Path) -> list[str]:
    """Options that make apt-get see unstable, and nothing else, through an index of its own in `folder`."""
    sources = folder / "unstable.list"
    (folder / "lists" / "partial").mkdir(parents=True, exist_ok=True)
    (folder / "archives" / "partial").mkdir(parents=True, exist_ok=True)
    keyring = Path("/usr/share/keyrings/debian-archive-keyring.gpg")
    signed_by = f"[signed-by={keyring}] " if keyring.exists() else ""
    sources.write_text(f"deb {signed_by}{debian_mirror()} unstable main\n")
    return [
        *("-o", f"Dir::Etc::sourcelist={sources}", "-o", "Dir::Etc::sourceparts=-"),
        *("-o", f"Dir::State::Lists={folder / 'lists'}", "-o", f"Dir::Cache={folder}"),
        *("-o", "Acquire::Languages=none"),
    ]


def download(folder: Path) -> Path:
    """Puts all packages into `folder`; Odoo's own is a kept one where ``TEST_ODOO_DEB`` names it."""
    quiet = ["apt-get", "-qq", "-o", "APT::Sandbox::User=root"]
    kept = os.environ.get("TEST_ODOO_DEB")
    if kept:
        shutil.copy(kept, folder)
    with tempfile.TemporaryDirectory() as index:
        options = unstable_options(Path(index))
        say("Odoo 19: reading the index of Debian unstable")
        run([*quiet, *options, "update"])
        say("Odoo 19: downloading the package (120 MB)")
        run([*quiet, *options, "download", *[name for name in NEWEST if not (kept and name == "odoo-19")]], cwd=folder)
    try:
        run([*quiet, "download", *OWN_SUITE], cwd=folder)
    except NoPackageError:  # a machine whose index has never been read
        run([*quiet, "update"])
        run([*quiet, "download", *OWN_SUITE], cwd=folder)
    return next(folder.glob("odoo*.deb"))


def version_of(package: Path) -> str:
    return run(["dpkg-deb", "--field", str(package), "Version"]).strip()


def unpack(package: Path, root: Path) -> None:
    exclude = [f"--exclude={pattern}" for pattern in LEFT_OUT]
    with subprocess.Popen(["dpkg-deb", "--fsys-tarfile", str(package)], stdout=subprocess.PIPE) as source:
        subprocess.run(
            ["tar", "-x", "--no-same-owner", "-C", str(root), *exclude], stdin=source.stdout, check=True, timeout=600
        )
    if source.returncode:
        raise NoPackageError(f"{package.name} is damaged")


def build_tree(root: Path) -> None:
    """One root for all packages, because the links between them are relative; ``VERSION`` says which Odoo it is."""
    with tempfile.TemporaryDirectory(dir=root) as folder:
        odoo = download(Path(folder))
        say("Odoo 19: unpacking")
        for package in sorted(Path(folder).glob("*.deb")):
            unpack(package, root)
        version = version_of(odoo)
    stub = root / STUB
    stub.parent.mkdir(parents=True, exist_ok=True)
    stub.write_text("// Removed from the package; only the blur of video calls uses it.\n")
    (root / "VERSION").write_text(version + "\n")


def tree() -> Path:
    """Where the unpacked Odoo 19 is kept: one that was named, or else the one that was downloaded first."""
    kept = os.environ.get("TEST_ODOO_DEB")
    if kept and not Path(kept).is_file():
        raise NoPackageError(f"TEST_ODOO_DEB={kept} is no file")
    return cache_folder() / f"odoo-19-{short_hash([version_of(Path(kept))]) if kept else 'unstable'}-{RECIPE}"


def prepared_tree() -> Path:
    """The unpacked Odoo 19, got first where it is not there yet. Raises :class:`NoPackageError`."""
    if not shutil.which("apt-get") or not shutil.which("dpkg-deb"):
        raise NoPackageError("apt-get and dpkg-deb, which fetch Debian's package, are not on this machine")
    return make(tree(), build_tree)
