"""Every word of the add-ons is there in Simplified Chinese."""

from __future__ import annotations

import re

import pytest

from tests.odoo.cluster import Cluster
from tests.odoo.databases import ADDON, OWN, new_database
from tests.odoo.releases import Odoo
from tests.odoo.translate import exported, merged, problems, translation_file

pytestmark = pytest.mark.xdist_group("odoo-translations")


TERMS_AT_LEAST = {ADDON: 500, "industrial_iot_maintenance": 30}


@pytest.mark.parametrize("addon", OWN)
def test_every_term_of_an_addon_as_it_is_now_is_translated(odoo_19: Odoo, cluster: Cluster, addon: str) -> None:
    with new_database(odoo_19, cluster) as database:
        terms = exported(odoo_19, cluster, database, addon)
        now = merged(odoo_19, cluster, database, terms, translation_file(addon).read_text())
        found = problems(odoo_19, cluster, database, now)
    assert len(re.findall(r"^msgid ", terms, re.MULTILINE)) > TERMS_AT_LEAST[addon]
    assert not found, "python -m tests.odoo.translate brings the files up to date:\n" + "\n".join(found)


@pytest.mark.parametrize(
    ("english", "chinese"),
    [
        ("Generate Token", "生成配置令牌"),
        ("Send Reset Command", "发送重置指令"),
        ("OTA Update", "OTA升级"),
        ("Telemetry Rules", "遥测规则"),
    ],
)
def test_the_buttons_of_the_documents_are_called_as_there(english: str, chinese: str) -> None:
    assert f'msgid "{english}"\nmsgstr "{chinese}"\n' in translation_file().read_text()


def test_what_is_wrong_with_a_translation_is_found(odoo_19: Odoo, cluster: Cluster) -> None:
    text = 'msgid ""\nmsgstr ""\n"Content-Type: text/plain; charset=UTF-8\\n"\n\n'
    text += "".join(
        f'msgid "{english}"\nmsgstr "{chinese}"\n\n'
        for english, chinese in (
            ("%s min", "分钟"),
            ("Open", ""),
            ("%(a)s of %(b)s", "%(b)s，%(a)s"),
            ("<b>New</b>", "新"),
        )
    )
    with new_database(odoo_19, cluster) as database:
        assert problems(odoo_19, cluster, database, text) == [
            "placeholders or tags differ: %s min",
            "not translated: Open",
            "placeholders or tags differ: <b>New</b>",
        ]
