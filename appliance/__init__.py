"""The IIoT Edge Appliance: an MQTT broker, an HTTP API and a store-and-forward buffer in one process."""

import sys

# httpx has a command line of its own, which loads rich and pygments: 6 MB, and 0.1 s of each start, that nobody here
# uses. An import of it that fails is what it expects where they are not installed.
sys.modules.setdefault("httpx._main", None)  # type: ignore[arg-type]

__version__ = "0.1.0"
RELEASED = "2026-11-22"
"""When this version was made: a clock that shows an earlier time is wrong. To be raised with each release."""
