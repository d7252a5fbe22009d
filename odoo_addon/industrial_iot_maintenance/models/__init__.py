from . import iiot_device, maintenance_equipment
