"""The add-on by the rules of the Odoo community, as pylint-odoo knows them; ``pyproject.toml`` says which hold."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import ROOT

ADDONS = [manifest.parent for manifest in sorted(ROOT.glob("odoo_addon/*/__manifest__.py"))]
ADDON = ROOT / "odoo_addon/industrial_iot"
SWITCHED_OFF = re.compile(r"# pylint: disable=[\w,-]+(?P<reason>.*)")

MANIFEST = """{
    "name": "Careless",
    "version": "next",
    "license": "LGPL-3",
    "author": "Somebody",
    "installable": True,
}
"""
MODEL = """from odoo import _, models
from odoo.exceptions import UserError


class Careless(models.Model):
    _name = "careless"

    def write(self, vals):
        self.env.cr.execute(f"DELETE FROM {vals}")
        self.env.cr.commit()
        self.search([]).unlink()
        if not vals:
            raise UserError("not translated")
        raise UserError(_("%s has %s", 1, 2))

    def unlink(self):
        super().unlink()
"""
FOUND = {
    *("manifest-version-format", "manifest-required-author", "manifest-superfluous-key", "missing-readme"),
    *("method-required-super", "sql-injection", "invalid-commit", "no-search-all", "translation-required"),
    *("translation-positional-used", "missing-return"),
}


def pylint(folder: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "pylint", "--rcfile", str(ROOT / "pyproject.toml"), "--score=no", str(folder)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)


@pytest.mark.parametrize("addon", ADDONS, ids=lambda addon: addon.name)
def test_an_addon_keeps_the_rules_of_the_odoo_community(addon: Path) -> None:
    done = pylint(addon)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_the_rules_are_really_looked_at(tmp_path: Path) -> None:
    addon = tmp_path / "careless"
    addon.mkdir()
    (addon / "__manifest__.py").write_text(MANIFEST)
    (addon / "__init__.py").write_text("from . import careless\n")
    (addon / "careless.py").write_text(MODEL)
    assert set(re.findall(r"\(([\w-]+)\)$", pylint(addon).stdout, re.MULTILINE)) == FOUND


def test_a_check_that_is_switched_off_has_its_reason_beside_it() -> None:
    places = [match for path in ROOT.glob("odoo_addon/**/*.py") for match in SWITCHED_OFF.finditer(path.read_text())]
    assert places
    assert [place.group() for place in places if not re.match(r"  # \w", place["reason"])] == []


def test_every_text_that_is_put_into_words_later_is_marked_for_translation() -> None:
    trees = {path: ast.parse(path.read_text()) for path in [*ADDON.glob("lib/*.py"), *ADDON.glob("models/*.py")]}
    nodes = [(path, node) for path, tree in trees.items() for node in ast.walk(tree)]
    worded = {"Worded"} | {
        node.name
        for _, node in nodes
        if isinstance(node, ast.ClassDef) and "WordedError" in map(ast.unparse, node.bases)
    }
    assert worded >= {"PathError", "DomainError", "ConversionError", "TargetError", "RenderingError"}
    made = [
        (path.name, node)
        for path, node in nodes
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in worded
    ]
    assert len(made) > 50
    text_at = {"RenderingError": 1}
    assert [
        (file, call.lineno)
        for file, call in made
        if isinstance(call.args[text_at.get(ast.unparse(call.func), 0)], (ast.Constant, ast.JoinedStr, ast.BinOp))
    ] == []


def test_no_text_for_translation_stands_in_an_f_string() -> None:
    """Odoo's export does not look into them, so that it would stay English."""
    found = [
        f"{path.relative_to(ROOT)}:{node.lineno}"
        for addon in ADDONS
        for path in addon.rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.JoinedStr)
        for part in ast.walk(node)
        if isinstance(part, ast.Call) and isinstance(part.func, ast.Name) and part.func.id == "_"
    ]
    assert found == []
