"""Runs the 3.1.1 client tests of Eclipse Paho: ``python paho_suite.py FOLDER PORT`` prints how each of them ended.

FOLDER is a checkout of github.com/eclipse/paho.mqtt.testing (or its ``interoperability``), which stays as it is. Its
``client_test.py`` sets what it needs as globals under ``__main__``; the same is done here, so that a port can be given.
"""

from __future__ import annotations

import importlib
import io
import json
import sys
import unittest
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

NOT_SUBSCRIBABLE = "test/nosubscribe"
"""The filter that the suite expects to be refused."""
TESTS = (
    "testBasic",
    "test_retained_messages",
    "will_message_test",  # its name keeps unittest from finding it
    "test_zero_length_clientid",
    "test_offline_message_queueing",
    "test_overlapping_subscriptions",
    "test_keepalive",
    "test_redelivery_on_reconnect",
    "test_subscribe_failure",
    "test_dollar_topics",
    "test_unsubscribe",
)


def folder_of(checkout: Path) -> Path:
    """Where ``client_test.py`` is."""
    inner = checkout / "interoperability"
    return inner if inner.is_dir() else checkout


def run(checkout: Path, port: int) -> dict[str, str]:
    """How each test ended: ``passed``, or the text of its failure."""
    sys.path.insert(0, str(folder_of(checkout)))
    module: Any = importlib.import_module("client_test")
    module.host, module.port = "127.0.0.1", port
    module.topics = ("TopicA", "TopicA/B", "Topic/C", "TopicA/C", "/TopicA")
    module.wildtopics = ("TopicA/+", "+/C", "#", "/#", "/+", "+/+", "TopicA/#")
    module.nosubscribe_topics = (NOT_SUBSCRIBABLE,)
    result = unittest.TestResult()
    unittest.TestSuite(module.Test(name) for name in TESTS).run(result)
    ended = dict.fromkeys(TESTS, "passed") if result.testsRun == len(TESTS) else {}
    for case, text in (*result.failures, *result.errors):
        ended[getattr(case, "_testMethodName", str(case))] = text
    return ended


if __name__ == "__main__":
    said = io.StringIO()
    with redirect_stdout(said):
        outcome = run(Path(sys.argv[1]), int(sys.argv[2]))
    print(said.getvalue(), file=sys.stderr)
    print(json.dumps(outcome))
