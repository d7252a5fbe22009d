from . import command, config, firmware, gateway, webhook
