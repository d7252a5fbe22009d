from . import test_manifest
