"""The answers of an appliance that really runs are those that it describes."""

from __future__ import annotations

from pathlib import Path

from tests.e2e.harness import Appliance, OdooStandIn
from tests.web.conftest import check_answer, template_of


async def test_what_a_running_appliance_answers_is_what_it_describes(tmp_path: Path) -> None:
    async with OdooStandIn(tmp_path / "odoo") as odoo, Appliance(tmp_path / "box", environment=odoo.settings) as box:
        async with odoo.client() as client:
            label = (await client.post("/sim/devices", json={"count": 1, "prefix": "press"})).json()["devices"][0]
        async with box.client(timeout=20) as client:
            document = (await client.get("/openapi.json")).json()
            paired = await client.post("/api/v1/config/download", json=label)
            device = paired.json()["device_id"]
            order = {"device_id": device, "action": "reset", "command_id": "c-1"}
            answers = [paired, await client.post("/api/v1/command/send", json=order)]
            for path, methods in document["paths"].items():
                if "get" in methods and not path.startswith("/ui/"):
                    names = {"command_id": "c-1", "update_id": "u-1", "device_id": device, "dead_letter_id": "1"}
                    found = path.format(**names, sha256="0" * 64)
                    answers.append(await client.get(found))
            answers.append(await client.get("/mqtt"))
            for answer in answers:
                assert template_of(document, answer.request.url.path) is not None
                await check_answer(document, answer.request, answer)
    assert sum(answer.status_code == 200 for answer in answers) >= 10
