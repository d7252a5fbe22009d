from . import config, gateway, webhook
