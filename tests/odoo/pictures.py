"""
``python -m tests.odoo.pictures``: makes the pictures of the add-on's description anew, from the demonstration factory
in Odoo 19 and Chromium.
"""

from __future__ import annotations

import base64
import sys
import tempfile
from pathlib import Path

from tests.odoo.cluster import running_cluster
from tests.odoo.conftest import web_client
from tests.odoo.databases import ADDON, ADDONS
from tests.odoo.screens import WebClient, menu_actions

FOLDER = ADDONS[0] / ADDON / "static" / "description"
SIZE = (1280, 760)
MOST_BYTES = 150_000


def shot(web: WebClient, name: str) -> None:
    """What is to be seen now, as ``NAME.jpg``."""
    told = web.driver.execute_cdp_cmd("Page.captureScreenshot", {"format": "jpeg", "quality": 88})
    data = base64.b64decode(told["data"])
    if len(data) > MOST_BYTES:
        raise SystemExit(f"{name}: {len(data)} bytes are more than {MOST_BYTES}")
    (FOLDER / f"{name}.jpg").write_bytes(data)
    print(f"{name}.jpg: {len(data)} bytes")


def take(web: WebClient) -> None:
    actions = {action.get("res_model") or action["tag"]: action["id"] for action in menu_actions(web.person, ADDON)}

    def record(model: str, domain: list[object]) -> None:
        (found,) = web.person.find(model, domain, "id", limit=1)
        web.do(actions[model], ".o_form_view", viewType="form", props={"resId": found["id"]})

    web.home(SIZE)
    web.enter(ADDON)
    web.do(actions["iiot_dashboard"])
    shot(web, "dashboard")
    record("iiot.device", [("device_id", "=", "press-1")])
    web.settle(".o_iiot_live canvas")
    shot(web, "device")
    record("iiot.telemetry.rule", [])
    web.until("[name='trial_table']", "Press 1")
    shot(web, "rule")
    web.do(actions["iiot.update"], ".o_kanban_view", viewType="kanban")
    shot(web, "updates")


def main() -> int:
    with running_cluster() as cluster:
        for web in web_client(19, cluster, Path(tempfile.mkdtemp())):
            take(web)
    return 0


if __name__ == "__main__":
    sys.exit(main())
