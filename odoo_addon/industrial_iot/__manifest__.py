{
    "name": "Industrial IoT (IIoT) Integration",
    "summary": "Devices, readings, commands and firmware of machines, through an edge appliance in the factory",
    "version": "1.0.0",  # without a series: one code base serves 17.0, 18.0 and 19.0
    "category": "Manufacturing",
    "license": "LGPL-3",
    "author": "IIoT Edge Appliance",
    "depends": ["mail"],
    "external_dependencies": {"python": ["jsonpath_ng"]},
    "data": [
        "security/groups.xml",
        "security/ir.model.access.csv",
        "security/rules.xml",
        "data/telemetry_cron.xml",
        "views/iiot_gateway_views.xml",
        "views/iiot_device_profile_views.xml",
        "views/iiot_device_views.xml",
        "views/iiot_telemetry_views.xml",
        "views/iiot_telemetry_rule_views.xml",
        "views/menus.xml",
    ],
    "application": True,
    "installable": True,
}
