from . import (
    test_command,
    test_device,
    test_inbox,
    test_lib,
    test_manifest,
    test_pairing,
    test_presence,
    test_profile,
    test_telemetry,
    test_telemetry_lib,
    test_telemetry_rule,
)
