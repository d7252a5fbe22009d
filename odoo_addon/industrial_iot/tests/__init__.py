from . import test_inbox, test_lib, test_manifest, test_pairing, test_telemetry, test_telemetry_lib, test_telemetry_rule
