{
    "name": "Industrial IoT for Maintenance",
    "summary": "What the device on a machine says, on the machine in Maintenance; and requests from the device",
    "version": "1.0.0",  # without a series: one code base serves 17.0, 18.0 and 19.0
    "category": "Manufacturing",
    "license": "LGPL-3",
    "author": "IIoT Edge Appliance",
    "depends": ["industrial_iot", "maintenance"],
    "data": [
        "views/maintenance_equipment_views.xml",
        "views/iiot_device_views.xml",
    ],
    "assets": {
        "web.assets_backend": ["industrial_iot_maintenance/static/src/**/*"],
    },
    "auto_install": True,
}
