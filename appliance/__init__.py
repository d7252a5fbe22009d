"""The IIoT Edge Appliance: an MQTT broker, an HTTP API and a store-and-forward buffer in one process."""

__version__ = "0.1.0"
RELEASED = "2026-11-22"
"""When this version was made: a clock that shows an earlier time is wrong. To be raised with each release."""
