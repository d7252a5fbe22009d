{
    "name": "IIoT test: machines with states",
    "summary": "The fields that the documents' examples of automatic commands ask for, and the examples that are code",
    "version": "1.0.0",
    "category": "Hidden",
    "license": "LGPL-3",
    "author": "IIoT Edge Appliance",
    "depends": ["industrial_iot", "maintenance"],
    "installable": True,
}
