"""``run``: the appliance itself, until it is told to stop."""

from __future__ import annotations

import errno
import gc
import logging
import sys

import typer

from appliance.cli.exits import Exit, fail
from appliance.cli.output import EnvFile
from appliance.errors import ApplianceError, DataFolderError, SettingsError, StoreError
from appliance.logs import TALKATIVE, start_logging
from appliance.settings import Settings, read

__all__ = ["TALKATIVE", "run"]

_log = logging.getLogger("appliance")


def run(env_file: EnvFile = None) -> None:
    """Run the appliance until SIGTERM or Ctrl-C."""
    findings = read(env_file)
    if findings.settings is None:
        fail(Exit.SETTINGS, *findings.problems, *findings.unknown)
    settings = findings.settings
    start_logging(level=settings.iiot_log_level, form=settings.iiot_log_format, stream=sys.stderr)
    for sentence in (*findings.unknown, *findings.cautions):
        _log.warning("%s", sentence)
    raise typer.Exit(_serve(findings.settings))


def _serve(settings: Settings) -> int:
    gc.disable()  # what is imported stays: looking for garbage meanwhile takes a quarter of the start-up time

    from appliance.process import serve  # takes most of the start-up time, and no other command needs it

    try:
        return serve(settings)
    except SettingsError as error:
        fail(Exit.SETTINGS, *error.problems)
    except (DataFolderError, StoreError) as error:
        fail(Exit.DATA_FOLDER, str(error))
    except ApplianceError as error:
        fail(Exit.FAILED, str(error))
    except OSError as error:
        if error.errno not in (errno.EADDRINUSE, errno.EADDRNOTAVAIL, errno.EACCES):
            raise
        fail(Exit.ADDRESS, f"cannot listen: {error.strerror}")
