from . import iiot_device_state  # isort: skip  # devices inherit from it, so Odoo must know it before them
from . import (
    iiot_device,
    iiot_device_change,
    iiot_device_profile,
    iiot_device_profile_telemetry,
    iiot_device_telemetry,
    iiot_gateway,
    iiot_telemetry,
    iiot_telemetry_hour,
    iiot_telemetry_rule,
    iiot_telemetry_rule_applied,
    iiot_telemetry_rule_preview,
    iiot_telemetry_rule_run,
    iiot_telemetry_value,
    ir_rule,
    ir_ui_view,
    res_groups,
)
