from . import test_equipment, test_request, test_rights
