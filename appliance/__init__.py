"""The IIoT Edge Appliance: an MQTT broker, an HTTP API and a store-and-forward buffer in one process."""

__version__ = "0.1.0"
