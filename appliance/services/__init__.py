"""What the appliance does with what it is told: pairing, telemetry, commands, OTA, presence. Knows no MQTT, no HTTP."""
