"""What leaves the box encrypted: nobody reads, changes, swaps or shortens it."""

from __future__ import annotations

import secrets
from io import BytesIO

import pytest

from appliance.errors import SealError
from appliance.sealing import (
    PIECE_BYTES,
    Cost,
    SealedReader,
    SealingWriter,
    SealKey,
    derive_key,
    is_sealed,
    seal,
    unseal,
)

CHEAP = Cost(log2_n=4)
PIECE = PIECE_BYTES + 16
HEAD = 8 + 4 + 16 + 7


@pytest.fixture(scope="module")
def key() -> SealKey:
    return derive_key("correct horse", cost=CHEAP)


def sealed(plain: bytes, key: SealKey) -> bytes:
    file = BytesIO()
    writer = SealingWriter(file, key)
    for start in range(0, len(plain), 300_000):
        writer.write(plain[start : start + 300_000])
    writer.finish()
    return file.getvalue()


def opened(content: bytes, passphrase: str = "correct horse") -> bytes:
    return SealedReader(BytesIO(content), passphrase=passphrase).readall()


@pytest.mark.parametrize("size", [0, 1, PIECE_BYTES - 1, PIECE_BYTES, PIECE_BYTES + 1, 3 * PIECE_BYTES])
def test_what_was_sealed_comes_back_whatever_its_size(key: SealKey, size: int) -> None:
    plain = secrets.token_bytes(size)
    content = sealed(plain, key)
    assert is_sealed(content)
    assert opened(content) == plain


def test_nothing_of_the_plain_text_is_in_it_and_no_two_are_alike(key: SealKey) -> None:
    plain = b"the master key" * 100
    first, second = seal(plain, key), seal(plain, key)
    assert first != second
    assert b"master" not in first
    assert unseal(first, "correct horse") == plain


def test_another_passphrase_opens_nothing_and_the_error_says_so(key: SealKey) -> None:
    with pytest.raises(SealError, match="passphrase is wrong"):
        opened(seal(b"secret", key), "battery staple")


@pytest.mark.parametrize("place", [0, 9, 10, 14, 30, HEAD, HEAD + 500_000, -1])
def test_a_changed_bit_is_noticed_wherever_it_is(key: SealKey, place: int) -> None:
    content = bytearray(sealed(bytes(PIECE_BYTES + 10), key))
    content[place] ^= 1
    with pytest.raises(SealError):
        opened(bytes(content))


@pytest.mark.parametrize("length", [0, 5, HEAD, HEAD + 100, HEAD + PIECE, HEAD + PIECE + 20])
def test_a_cut_off_end_is_noticed_wherever_it_is_cut(key: SealKey, length: int) -> None:
    content = sealed(bytes(2 * PIECE_BYTES), key)
    with pytest.raises(SealError):
        opened(content[:length])


def test_pieces_that_changed_places_or_follow_the_last_one_are_noticed(key: SealKey) -> None:
    content = sealed(bytes(3 * PIECE_BYTES), key)
    head, first, second, third = (
        content[:HEAD],
        *(content[HEAD + n * PIECE : HEAD + (n + 1) * PIECE] for n in range(3)),
    )
    for order in ([second, first, third], [first, third, second], [first, second, third, third], [first, third]):
        with pytest.raises(SealError):
            opened(head + b"".join(order))


def test_a_file_may_not_ask_for_more_memory_than_a_small_box_has(key: SealKey) -> None:
    content = bytearray(seal(b"x", key))
    content[9] = 31
    with pytest.raises(SealError, match="does not know"):
        opened(bytes(content))


def test_a_key_is_never_shown(key: SealKey) -> None:
    assert repr(key.key) not in repr(key)
