from . import test_lib, test_manifest, test_telemetry
