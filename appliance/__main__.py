"""``python -m appliance`` runs the appliance; with arguments it is the command ``iiot-appliance``."""

import sys

from appliance.cli import main

main(sys.argv[1:] or ["run"])
