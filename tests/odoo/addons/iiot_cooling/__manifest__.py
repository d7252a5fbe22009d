{
    "name": "IIoT cooling",
    "summary": "Extends what becomes of a reading, as the add-on's documentation shows it",
    "version": "1.0.0",
    "license": "LGPL-3",
    "author": "IIoT Edge Appliance",
    "depends": ["industrial_iot"],
    "installable": True,
}
