"""``python -m firmware_sim``: the command line of devices, fleets, the stand-in for Odoo and the demo."""

from __future__ import annotations

import os
import signal


def _leave_quietly(_number: int, _frame: object) -> None:
    os._exit(130)


if __name__ == "__main__":
    # Until a command has set up its own end there is nothing to clean up, and imports take a moment.
    signal.signal(signal.SIGINT, _leave_quietly)
    from firmware_sim.cli import main

    main()
