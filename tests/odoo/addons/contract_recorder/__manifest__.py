{
    "name": "Contract Recorder",
    "summary": "For tests: what the inbox hands on is written down, and tests make devices and codes over RPC",
    "version": "1.0.0",
    "license": "LGPL-3",
    "author": "IIoT Edge Appliance",
    "depends": ["industrial_iot"],
    "data": ["ir.model.access.csv"],
    "installable": True,
}
