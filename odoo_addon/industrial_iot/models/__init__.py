# Odoo must know what others inherit from before them
from . import iiot_device_state, iiot_gateway_report  # isort: skip
from . import (
    iiot_device,
    iiot_device_change,
    iiot_device_profile,
    iiot_device_profile_telemetry,
    iiot_device_telemetry,
    iiot_device_token,
    iiot_gateway,
    iiot_gateway_epoch,
    iiot_gateway_event,
    iiot_gateway_key,
    iiot_gateway_sync,
    iiot_inbox,
    iiot_telemetry,
    iiot_telemetry_hour,
    iiot_telemetry_rule,
    iiot_telemetry_rule_applied,
    iiot_telemetry_rule_preview,
    iiot_telemetry_rule_run,
    iiot_telemetry_value,
    ir_cron,
    ir_rule,
    ir_ui_view,
    res_config_settings,
    res_groups,
)

from . import (  # isort: skip  # what extends the models above
    iiot_command,
    iiot_command_exchange,
    iiot_device_command,
    iiot_device_config,
    iiot_device_pairing,
    iiot_device_presence,
    iiot_device_report,
    iiot_firmware,
    iiot_update,
    iiot_update_exchange,
    push,
)

from . import (  # isort: skip  # what people see of them
    iiot_dashboard,
    iiot_demo,
    iiot_device_profile_screen,
    iiot_device_screen,
    iiot_firmware_screen,
    iiot_gateway_screen,
    iiot_history_screen,
    iiot_telemetry_rule_trial,
    iiot_wording,
)
