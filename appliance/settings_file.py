"""The settings that somebody has given, as a file that the appliance and systemd can read."""

from __future__ import annotations

import re

from pydantic import SecretStr

from appliance.settings import Settings

LEFT_OUT = ("iiot_backup_passphrase",)
"""What would open the backup that it lies in."""
_PLAIN = re.compile(r"[A-Za-z0-9_./:@,+={}-]*")


def settings_text(settings: Settings, *, without: tuple[str, ...] = ()) -> str:
    """A line for each that is not the default, secrets as they are; ``without`` are how names begin that stay out."""
    lines = []
    for name in Settings.model_fields:
        value = getattr(settings, name)
        if name not in settings.model_fields_set or name in LEFT_OUT or name.startswith(without) or value is None:
            continue
        text = value.get_secret_value() if isinstance(value, SecretStr) else str(value)
        lines.append(f"{name.upper()}={_quoted(text)}\n")
    return "".join(lines)


def _quoted(text: str) -> str:
    if _PLAIN.fullmatch(text):
        return text
    escaped = text.replace("\\", "\\\\").replace("'", "\\'")
    return f"'{escaped}'"
