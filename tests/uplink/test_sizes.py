"""How the size of a batch follows what Odoo takes."""

from __future__ import annotations

from appliance.uplink.sizes import FORGET_REFUSED_SIZE_S, BatchSize
from tests.uplink.conftest import Time


def settle(size: BatchSize, limit: int, posts: int) -> int:
    """Send full bodies to an Odoo with this limit; how many it refused."""
    refused = 0
    for _ in range(posts):
        body_bytes = size.body_bytes
        if body_bytes > limit:
            size.too_large(body_bytes, certain=True)
            refused += 1
        else:
            size.accepted(500, body_bytes)
    return refused


def test_bodies_come_close_to_a_limit_with_few_refusals_and_find_out_when_it_is_raised(time: Time) -> None:
    size = BatchSize(messages=500, body_bytes=1_000_000, clock=time)
    assert settle(size, 100_000, 40) < 10
    assert settle(size, 100_000, 1000) == 0
    assert 90_000 <= size.body_bytes <= 100_000
    time.elapsed_s += FORGET_REFUSED_SIZE_S
    assert settle(size, 2_000_000, 10) == 0
    assert size.body_bytes == 1_000_000


def test_a_limit_that_is_lowered_is_found_again(time: Time) -> None:
    size = BatchSize(messages=500, body_bytes=1_000_000, clock=time)
    settle(size, 500_000, 100)
    assert settle(size, 50_000, 100) < 12
    assert 40_000 <= size.body_bytes <= 50_000


def test_a_connection_cut_in_an_outage_says_nothing_about_sizes(time: Time) -> None:
    size = BatchSize(messages=500, body_bytes=1_000_000, clock=time)
    size.too_large(1_000_000, certain=False)
    size.failed(250)
    for _ in range(12):
        size.accepted(size.messages, size.body_bytes)
    assert (size.messages, size.body_bytes) == (500, 1_000_000)


def test_a_cut_followed_by_a_smaller_body_that_passes_is_a_limit(time: Time) -> None:
    size = BatchSize(messages=500, body_bytes=400_000, clock=time)
    size.too_large(400_000, certain=False)
    for _ in range(50):
        size.accepted(500, size.body_bytes)
    assert 300_000 < size.body_bytes < 400_000


def test_failures_shrink_the_batch_to_one_and_success_doubles_it(time: Time) -> None:
    size = BatchSize(messages=500, body_bytes=1_000_000, clock=time)
    for _ in range(20):
        size.failed(size.messages)
    assert size.messages == 1
    grown = []
    for _ in range(10):
        size.accepted(size.messages, 1000)
        grown.append(size.messages)
    assert grown == [2, 4, 8, 16, 32, 64, 128, 256, 500, 500]


def test_answers_that_take_long_make_batches_smaller_until_they_come_soon(time: Time) -> None:
    size = BatchSize(messages=500, body_bytes=1_000_000, clock=time)
    sizes = []
    for _ in range(6):
        sizes.append(size.messages)
        size.accepted(size.messages, 1000, seconds=0.1 + size.messages * 0.01)
    assert sizes == [500, 250, 125, 62, 62, 62]
    # Odoo is fast again
    for _ in range(4):
        size.accepted(size.messages, 1000, seconds=0.1)
    assert size.messages == 500


def test_a_long_way_to_odoo_does_not_make_batches_smaller(time: Time) -> None:
    """Where half a batch takes as long as a whole one, small ones would only make it worse."""
    size = BatchSize(messages=500, body_bytes=1_000_000, clock=time)
    sizes = []
    for _ in range(6):
        sizes.append(size.messages)
        size.accepted(size.messages, 1000, seconds=3.0 + size.messages * 0.0001)
    assert sizes == [500, 250, 250, 500, 500, 500]


def test_no_answer_takes_so_long_that_batches_vanish(time: Time) -> None:
    size = BatchSize(messages=500, body_bytes=1_000_000, clock=time)
    for _ in range(20):
        size.accepted(size.messages, 1000, seconds=size.messages * 10.0)
    assert size.messages == 20


def test_limits_that_odoo_names_hold_until_it_names_others_and_never_beyond_our_own(time: Time) -> None:
    size = BatchSize(messages=500, body_bytes=1_000_000, clock=time)
    size.limit(messages=100, body_bytes=50_000)
    for _ in range(12):
        size.accepted(size.messages, size.body_bytes)
    assert (size.messages, size.body_bytes, size.most_messages) == (100, 50_000, 100)
    size.limit(messages=None, body_bytes=10**9)
    for _ in range(12):
        size.accepted(size.messages, size.body_bytes)
    assert (size.messages, size.body_bytes) == (500, 1_000_000)
