"""The device's own queue."""

from __future__ import annotations

from random import Random

import pytest

from firmware_sim.backoff import Backoff
from firmware_sim.send_queue import Outgoing, SendQueue


def reading(name: str) -> Outgoing:
    return Outgoing("telemetry/x/data", name.encode(), name)


def sent(queue: SendQueue, mid: int) -> str:
    message = queue.take()
    assert message is not None
    queue.sent(mid, message, 0.0)
    return message.payload.decode()


def test_no_more_than_the_window_is_in_flight() -> None:
    queue = SendQueue(window=2)
    for name in "abc":
        queue.put(reading(name))
    assert [sent(queue, 1), sent(queue, 2)] == ["a", "b"]
    assert queue.take() is None
    queue.acknowledged(1)
    assert sent(queue, 3) == "c"


def test_what_was_in_flight_is_first_on_the_next_connection_in_its_order() -> None:
    queue = SendQueue(window=3)
    for name in "abcd":
        queue.put(reading(name))
    for mid in (1, 2, 3):
        sent(queue, mid)
    queue.acknowledged(2)
    queue.connection_lost()
    assert [sent(queue, mid) for mid in (1, 2, 3)] == ["a", "c", "d"]


def test_a_full_queue_gives_up_its_oldest_reading() -> None:
    queue = SendQueue(limit=2)
    dropped = [queue.put(reading(name)) for name in "abc"]
    assert [message and message.msg_id for message in dropped] == [None, None, "a"]
    assert len(queue) == 2


def test_an_answer_goes_ahead_of_readings_and_never_pushes_one_out() -> None:
    queue = SendQueue(limit=1)
    queue.put(reading("a"))
    assert queue.put(Outgoing("command/x/response", b"answer")) is None
    assert sent(queue, 1) == "answer"


def test_a_puback_for_something_else_settles_nothing() -> None:
    queue = SendQueue()
    queue.put(reading("a"))
    sent(queue, 1)
    assert queue.acknowledged(2) is None
    assert len(queue) == 1


@pytest.mark.parametrize("window", [0, 21])
def test_the_window_has_bounds(window: int) -> None:
    with pytest.raises(ValueError, match="window"):
        SendQueue(window=window)


def test_back_off_grows_to_its_limit_and_starts_again_after_a_success() -> None:
    backoff = Backoff(random=Random(1), first_s=1.0, longest_s=8.0)
    delays = [backoff.next_s() for _ in range(200)]
    assert all(0.1 <= delay <= 8.0 for delay in delays)
    assert max(delays) > 6.0
    assert delays[0] <= 1.0
    backoff.reset()
    assert backoff.next_s() <= 1.0
