from . import iiot_device
