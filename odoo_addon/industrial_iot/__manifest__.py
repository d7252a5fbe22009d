{
    "name": "Industrial IoT (IIoT) Integration",
    "version": "1.0.0",
    "summary": "Devices, telemetry, commands and firmware of factory equipment, through edge appliances",
    "category": "Manufacturing",
    "license": "LGPL-3",
    "depends": ["mail"],
    "external_dependencies": {"python": ["jsonpath_ng"]},
    "data": [],
    "application": True,
}
