from . import iiot_command_dialog, iiot_gateway_secret, iiot_token_dialog, iiot_update_dialog
