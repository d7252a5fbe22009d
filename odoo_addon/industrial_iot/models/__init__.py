from . import iiot_device_state  # isort: skip  # devices inherit from it, so Odoo must know it before them
from . import (
    iiot_device,
    iiot_device_change,
    iiot_device_profile,
    iiot_gateway,
    ir_rule,
    ir_ui_view,
    res_groups,
)
