"""The room for uploads: each takes what it needs, nobody takes it all, and all of it comes back."""

from uuid import UUID

import pytest

from server.errors import RateLimited, Unavailable
from server.files.room import SHARE_BYTES, UploadRoom
from server.model_request import UserId

ALICE, BOB, CAROL = (UserId(UUID(int=number)) for number in range(3))
TOO_MANY = "Too many uploads at once"


def test_a_large_upload_takes_no_more_than_its_share() -> None:
    room = UploadRoom(2 * SHARE_BYTES, per_user=SHARE_BYTES)
    with room.reserve(ALICE, 1000 * SHARE_BYTES), room.reserve(BOB, 1000 * SHARE_BYTES):
        pass


def test_a_user_gets_a_part_of_it_and_the_others_the_rest() -> None:
    room = UploadRoom(100, per_user=60)
    with room.reserve(ALICE, 60):
        with pytest.raises(RateLimited, match=TOO_MANY), room.reserve(ALICE, 1):
            pass
        with room.reserve(BOB, 40):
            with pytest.raises(Unavailable, match="too much at once"), room.reserve(CAROL, 1):
                pass
            with room.reserve(CAROL, 0):
                pass


def test_what_was_taken_comes_back_also_after_an_error() -> None:
    room = UploadRoom(100, per_user=100)
    for _ in range(3):
        with pytest.raises(ValueError, match="broken"), room.reserve(ALICE, 100):
            raise ValueError("broken")
