"""A Debian that has booted in a container: systemd is its first process, and units run in their sandboxes.

What it writes goes to memory, on top of folders that stay as they are. So a machine that was installed once can be the
beginning of many tests: see :meth:`Machine.layer`.
"""

from __future__ import annotations

import itertools
import os
import shlex
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

BOOT_S = 240.0
"""With an environment that is made anew at the first start, on processors that others use too."""
_numbers = itertools.count(1)


class Machine:
    """A context: it boots, and is switched off at the end. ``lower``: root folders, the upper ones first."""

    def __init__(
        self, folder: Path, lower: Sequence[Path], *, network: bool = False, binds: Mapping[Path, str] | None = None
    ) -> None:
        """``network``: it shares this machine's loopback interface; otherwise it has its own, and nothing else."""
        self.name = f"iiot-test-{os.getpid()}-{next(_numbers)}"
        self._folder = folder / self.name
        self._lower = list(lower)
        self._network = network
        self._binds = dict(binds or {})
        self._process: subprocess.Popen[bytes]
        self._pid = 0

    @property
    def root(self) -> Path:
        """Its root folder as this machine sees it."""
        return self._folder / "root"

    @property
    def log(self) -> str:
        """What the console said."""
        return (self._folder / "console").read_text(errors="replace")

    # --- life ------------------------------------------------------------------------------------------------

    def __enter__(self) -> Self:
        self._folder.mkdir(parents=True)
        self._mount()
        try:
            self.boot()
        except BaseException:
            self.power_off()
            self._unmount()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.power_off()
        self._unmount()

    def _mount(self) -> None:
        memory = self._folder / "memory"
        memory.mkdir()
        subprocess.run(["mount", "-t", "tmpfs", "-o", "mode=0755,size=2g", "tmpfs", str(memory)], check=True)
        for name in ("upper", "work"):
            (memory / name).mkdir()
        self.root.mkdir()
        layers = ":".join(map(str, self._lower))
        options = f"lowerdir={layers},upperdir={memory}/upper,workdir={memory}/work"
        subprocess.run(["mount", "-t", "overlay", "-o", options, "overlay", str(self.root)], check=True)

    def _unmount(self) -> None:
        for mounted in (self.root, self._folder / "memory"):
            subprocess.run(["umount", str(mounted)], capture_output=True, check=False)

    def boot(self) -> None:
        """Switch it on; returns when everything has started."""
        # it ends with the tests, however they end
        command = [
            "setpriv",
            "--pdeathsig",
            "KILL",
            "systemd-nspawn",
            "--quiet",
            "--boot",
            "--register=no",
            "--keep-unit",
            "--console=pipe",
        ]
        command += [f"--directory={self.root}", f"--machine={self.name}", "--resolv-conf=off", "--timezone=off"]
        command += [] if self._network else ["--private-network"]
        command += [f"--bind-ro={source}:{target}" for source, target in self._binds.items()]
        with (self._folder / "console").open("ab") as console:
            self._process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=console, stderr=console, start_new_session=True
            )
        state = ""

        def up() -> bool:
            nonlocal state
            # asked each time: while the container is being built its first process is another one
            self._pid = self._first_process() or 0
            state = self.run("systemctl is-system-running", check=False).stdout.strip() if self._pid else ""
            return state in ("running", "degraded")

        self._wait_until(up, BOOT_S, "it did not boot")
        assert state == "running", self.run("systemctl --failed", check=False).stdout

    def _first_process(self) -> int | None:
        path = Path(f"/proc/{self._process.pid}/task/{self._process.pid}/children")
        children = path.read_text().split() if path.exists() else []
        return int(children[0]) if children else None

    def power_off(self) -> None:
        """Orderly, else by force."""
        if self._process.poll() is not None:
            return
        if self._pid:
            self.run("systemctl poweroff", check=False)
        try:
            self._process.wait(30)
        except subprocess.TimeoutExpired:
            # its first process ends with it
            self._process.send_signal(signal.SIGKILL)
            self._process.wait(10)

    def reboot(self) -> None:
        """Off and on again."""
        self.power_off()
        self.boot()

    def layer(self, folder: Path) -> Path:
        """Keep what was written so far as a root folder for other machines; it must be off."""
        subprocess.run(["cp", "-a", str(self._folder / "memory/upper"), str(folder)], check=True)
        return folder

    # --- what happens inside ---------------------------------------------------------------------------------

    def run(
        self, command: str, *, check: bool = True, timeout_s: float = 180, text: str = "", **environment: str
    ) -> subprocess.CompletedProcess[str]:
        """Run a shell command as root. What it said is in the error if it fails and ``check``."""
        inside = ["env", "-i", "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "HOME=/root"]
        inside += [f"{name}={value}" for name, value in environment.items()] + ["bash", "-c", command]
        done = subprocess.run(
            ["nsenter", "--target", str(self._pid), "--all", "--wdns=/", *inside],
            input=text,
            capture_output=True,
            text=True,
            timeout=timeout_s,
            check=False,
        )
        if check and done.returncode:
            raise AssertionError(f"{command}: status {done.returncode}\n{done.stdout}\n{done.stderr}")
        return done

    def says(self, command: str) -> str:
        """What a command prints."""
        return self.run(command).stdout.strip()

    def show(self, name: str, unit: str = "iiot-appliance.service") -> str:
        """A property of a unit."""
        return self.says(f"systemctl show --property {name} --value {unit}")

    def journal(self, unit: str = "iiot-appliance.service") -> str:
        """What the unit has logged."""
        return self.says(f"journalctl --no-pager --output cat --unit {unit}")

    def digest(self, *folders: str) -> set[str]:
        """A line for each thing in these folders: name, mode, owner, and content; below ``/usr`` the time of its last
        change, because there is so much of it. Without the copies of its lists of accounts that Debian makes."""
        found = f"find {' '.join(map(shlex.quote, folders))} ! -path '/etc/*-' ! -path /etc/.pwd.lock"
        own = "'(' -path '/usr/local/*' -o ! -path '/usr/*' ')'"
        return set(
            self.says(
                f"{found} -printf '%p %m %U %G %y %l\\n'; {found} -type f ! {own} -printf '%p %s %T@\\n';"
                f" {found} -type f {own} -print0 | xargs -0 sha256sum"
            ).splitlines()
        )

    def wait_until(self, condition: Callable[[], bool], within_s: float = 60.0) -> None:
        """Poll it; what the journal says is in the error."""
        self._wait_until(condition, within_s, "it did not come to that")

    def _wait_until(self, condition: Callable[[], bool], within_s: float, complaint: str) -> None:
        deadline = time.monotonic() + within_s
        while not condition():
            if self._process.poll() is not None:
                raise AssertionError(f"{complaint}: it is off\n{self.log}")
            if time.monotonic() > deadline:
                said = self.journal() if self._pid else ""
                raise AssertionError(f"{complaint}\n{self.log[-3000:]}\n{said[-3000:]}")
            time.sleep(0.05)


def missing_tool() -> str | None:
    """Why no machine can be booted here, or ``None``."""
    if os.geteuid() != 0:
        return "needs root"
    absent = [name for name in ("debootstrap", "systemd-nspawn", "nsenter") if shutil.which(name) is None]
    return f"needs {', '.join(absent)}" if absent else None
