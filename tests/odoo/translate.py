"""
``python -m tests.odoo.translate``: writes the terms of each add-on to the ``.pot`` in its ``i18n/``, brings
``zh_CN.po`` up to them, and lists what is not translated. Exit status 1 while something is missing.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

from tests.odoo.cluster import Cluster, running_cluster
from tests.odoo.databases import ADDON, ADDONS, OWN, new_database
from tests.odoo.releases import Odoo, find
from tests.odoo.scripts import run_script

LANGUAGE = "zh_CN"
EXPORT = """
import io
from odoo.tools.translate import trans_export
terms = io.BytesIO()
trans_export(False, [module], terms, 'po', env)
answer(terms.getvalue().decode())
"""
MERGE = """
import polib
new, old = polib.pofile(pot), polib.pofile(po)
known = {entry.msgid: entry.msgstr for entry in old}
for entry in new:
    entry.msgstr = known.get(entry.msgid, '')
new.metadata = {**new.metadata, **{name: old.metadata[name] for name in ('Language', 'Language-Team', 'Plural-Forms')
                                   if name in old.metadata}}
answer(str(new))
"""
"""Odoo brings polib; nobody else needs it."""
PROBLEMS = r"""
import re, polib
found = []
places = lambda text: sorted(re.findall(r'%(?:\([^)]*\))?[sd]|</?[^\s>/]+', text))
for entry in polib.pofile(po):
    if not entry.msgstr or entry.fuzzy:
        found.append('not translated: ' + entry.msgid)
    elif places(entry.msgid) != places(entry.msgstr):
        found.append('placeholders or tags differ: ' + entry.msgid)
answer(found)
"""
_WHEN = re.compile(r'^"(?:POT-Creation|PO-Revision)-Date: .*\n', re.MULTILINE)


def exported(odoo: Odoo, cluster: Cluster, database: str, addon: str = ADDON) -> str:
    """An add-on's terms as a ``.pot`` file, without the time of day."""
    text = str(run_script(odoo, cluster, database, EXPORT, module=addon))
    return _WHEN.sub("", re.sub(r"Odoo Server [\w.+~-]+", "Odoo Server", text))


def merged(odoo: Odoo, cluster: Cluster, database: str, pot: str, po: str) -> str:
    """The terms of ``pot`` with the translations of ``po``."""
    return str(run_script(odoo, cluster, database, MERGE, pot=pot, po=po)) + "\n"


def problems(odoo: Odoo, cluster: Cluster, database: str, po: str) -> list[str]:
    """What of it is not translated, or with other placeholders or tags than the original."""
    return list(run_script(odoo, cluster, database, PROBLEMS, po=po))


def template_file(addon: str = ADDON) -> Path:
    return ADDONS[0] / addon / "i18n" / f"{addon}.pot"


def translation_file(addon: str = ADDON) -> Path:
    return template_file(addon).with_name(f"{LANGUAGE}.po")


def main() -> int:
    odoo = find(19, get=True)
    found = []
    with running_cluster() as cluster, new_database(odoo, cluster) as database:
        for addon in OWN:
            pot = exported(odoo, cluster, database, addon)
            template_file(addon).parent.mkdir(exist_ok=True)
            template_file(addon).write_text(pot)
            translated = translation_file(addon)
            old = translated.read_text() if translated.exists() else 'msgid ""\nmsgstr ""\n'
            new = merged(odoo, cluster, database, pot, old)
            translated.write_text(new)
            found += [f"{addon}: {problem}" for problem in problems(odoo, cluster, database, new)]
    for problem in found:
        print(problem)
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
