"""The README's examples, so that tests run what people read."""

from __future__ import annotations

import re

from tests.conftest import ROOT

_EXAMPLE = re.compile(r"^<!-- example: ([\w-]+) -->\n```(\w+)\n(.*?)^```$", re.DOTALL | re.MULTILINE)


def examples() -> dict[str, str]:
    """Each example's code by its name, as it stands in the README."""
    found = {name: code for name, _, code in _EXAMPLE.findall((ROOT / "README.md").read_text())}
    assert found
    return found
