from . import (
    iiot_device,
    iiot_device_change,
    iiot_device_profile,
    iiot_device_state,
    iiot_gateway,
    ir_rule,
    res_groups,
)
