"""Turns claimed rows into the model requests that generators run."""

import asyncpg
import orjson

from server.errors import Code
from server.model_request import Failed, ModelRequest


def model_request_of(row: asyncpg.Record) -> ModelRequest:
    """The model request of a row that a claiming statement returned."""
    return ModelRequest(
        id=row["id"],
        user_id=row["user_id"],
        model_type=row["model_type"],
        model=row["model"],
        input_data=row["input_data"] or b"{}",
        parameters=row["parameters"],
        owner=row["owner"],
        epoch=row["epoch"],
        attempt=row["attempt"],
        created_at=row["created_at"],
        deadline_at=row["deadline_at"],
        deadline_left_s=row["deadline_left_s"],
        last_error=_last_error_of(row),
    )


def _last_error_of(row: asyncpg.Record) -> Failed | None:
    """Never fails: an unknown code, of a later version, becomes SERVER_ERROR, so that the row can run."""
    if row["error_msg"] is None:
        return None
    code = Code(row["error_code"]) if row["error_code"] in set(Code) else Code.SERVER_ERROR
    said = row["upstream_error"]
    return Failed(code, row["error_msg"], upstream_error=None if said is None else orjson.loads(said))
