"""Bodies that are almost right: one member another value, missing or doubled, or a few bytes changed."""

import copy
import json
import random

NASTY = (
    None,
    True,
    False,
    0,
    -1,
    1.5,
    2**31,
    2**62,
    2**63,
    10**30,
    1e308,
    "",
    "x",
    "\x00",
    "\ud800",
    "é" * 40,
    "a" * 70_000,
    "-",
    "1; DROP TABLE iiot_receipt",
    "%s",
    "{{ 7*7 }}",
    [],
    [None],
    [[]],
    [1, "x", {}],
    {},
    {"a": {"b": [1e308, "\x00"]}},
    "2026-11-22T10:00:00.000Z",
    "9999-12-31T23:59:59.999-12:00",
    "0001-01-01T00:00:00+14:00",
    "00000000-0000-0000-0000-000000000000",
)
TEXTS = (
    b"",
    b"null",
    b"[]",
    b'"text"',
    b"5",
    b"{",
    b"\xff\xfe",
    b'{"a": NaN}',
    b"[" * 100_000,
    b'{"a":' * 50_000,
    b'{"contract": 1e400}',
    b'{"contract": ' + b"9" * 10_000 + b"}",
    b'{"a": "\\ud800"}',
    b"\xef\xbb\xbf{}",
    b" " * 1000,
)


def mutated(body: dict, count: int, seed: int = 7) -> list[bytes]:
    """``count`` bodies, the same each time."""
    chance = random.Random(seed)  # noqa: S311 - the same bodies each time, nothing secret
    bodies = list(TEXTS)
    while len(bodies) < count:
        changed = copy.deepcopy(body)
        for _ in range(chance.choice((1, 1, 1, 2, 5))):
            _change(changed, chance)
        content = json.dumps(changed).encode()
        if chance.random() < 0.15:
            content = _bytes_changed(content, chance)
        bodies.append(content)
    return bodies[:count]


def _places(value: object) -> list[tuple]:
    """Each container with each of its keys."""
    if isinstance(value, dict):
        keys = list(value)
    elif isinstance(value, list):
        keys = list(range(len(value)))
    else:
        return []
    return [(value, key) for key in keys] + [place for key in keys for place in _places(value[key])]


def _change(body: dict, chance: random.Random) -> None:
    places = _places(body)
    if not places:
        return
    container, key = chance.choice(places)
    way = chance.random()
    if way < 0.15:
        del container[key]
    elif way < 0.25 and isinstance(container, list):
        container.append(container[key])
    else:
        container[key] = copy.deepcopy(chance.choice(NASTY))


def _bytes_changed(content: bytes, chance: random.Random) -> bytes:
    place = chance.randrange(len(content))
    way = chance.random()
    if way < 0.4:
        return content[:place]
    if way < 0.7:
        return content[:place] + bytes((chance.randrange(256),)) + content[place + 1 :]
    return content[:place] + content[place:] * 2
