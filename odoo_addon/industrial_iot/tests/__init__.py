from . import test_inbox, test_lib, test_manifest, test_telemetry
