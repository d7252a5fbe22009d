from . import command, config, gateway, webhook
