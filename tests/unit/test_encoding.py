"""JSON of times and ids, in the one form that clients parse."""

from datetime import UTC, datetime, timedelta, timezone
from uuid import UUID

import pytest

from server.encoding import dumps
from server.model_request import Status, mint_id
from server.schemas import render_record

WHOLE = datetime(2026, 11, 23, 8, 0, 11, tzinfo=UTC)
UUID_TEXT = "019ab0c4-5d1e-7c3a-9f20-3b1d2c4e5f60"


@pytest.mark.parametrize(
    ("moment", "text"),
    [
        (WHOLE, "2026-11-23T08:00:11.000000Z"),
        (WHOLE.replace(microsecond=10), "2026-11-23T08:00:11.000010Z"),
        (WHOLE.replace(microsecond=500_000), "2026-11-23T08:00:11.500000Z"),
        (WHOLE.astimezone(timezone(timedelta(hours=5, minutes=30))), "2026-11-23T13:30:11.000000+05:30"),
    ],
)
def test_s7_times_have_six_digits_always(moment: datetime, text: str) -> None:
    assert dumps({"at": moment, "list": [moment]}) == f'{{"at":"{text}","list":["{text}"]}}'.encode()


def test_s7_a_request_object_has_six_digits_at_a_whole_second() -> None:
    row = {
        "id": mint_id(),
        "user_id": UUID(UUID_TEXT),
        "status": Status.COMPLETED,
        "model_type": "text2text",
        "model": None,
        "input_data": b"{}",
        "attempt": 1,
        "created_at": WHOLE,
        "completed_at": WHOLE,
        "deadline_at": WHOLE,
    }
    assert render_record(row).count(b":11.000000Z") == 3
