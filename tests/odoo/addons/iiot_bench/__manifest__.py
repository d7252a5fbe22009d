{
    "name": "IIoT benchmark",
    "summary": "Machines with a number that telemetry writes, for benchmarks and tests",
    "version": "1.0.0",
    "license": "LGPL-3",
    "author": "IIoT Edge Appliance",
    "depends": ["industrial_iot"],
    "data": ["security/ir.model.access.csv"],
    "installable": True,
}
