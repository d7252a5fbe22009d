from . import test_lib, test_manifest
