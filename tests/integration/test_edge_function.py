"""The edge function's own tests, in the real Deno, and what it shares with the server."""

import subprocess
from http import HTTPStatus
from pathlib import Path
from typing import Any

import orjson

from server.catalog import ROUTER_CHAT_MODELS, ROUTER_GENERATION_MODELS
from server.inference.protocol import Failure
from server.model_request import Completed
from tests.deno import DENO, ENVIRONMENT
from tests.fakes.huggingface import body_of
from tests.fakes.tapes import TAPES, Record, all_exchanges
from tests.unit.inference.protocol.test_exchanges import decipher

ROOT = Path(__file__).parents[2]
FUNCTION = ROOT / "supabase" / "functions" / "hf-inference"


MAX_WORDS = 400
"""Of upstream's own, in a message of the function."""


def test_the_tests_in_deno_pass() -> None:
    tapes = {"TAPES": str(TAPES)} if TAPES.is_dir() else {}
    done = subprocess.run(
        [DENO, "test", "--config", "deno.json", "--allow-net=127.0.0.1", "--allow-env", "--allow-read", "tests"],
        cwd=FUNCTION,
        env=ENVIRONMENT | tapes,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    print(done.stdout)
    assert done.returncode == 0, done.stdout[-8000:] + done.stderr[-4000:]


def test_an_answer_means_to_the_function_what_it_means_to_the_server() -> None:
    records = all_exchanges()
    asked = [
        {
            "status": record["response"]["status"],
            "headers": record["response"]["headers"],
            "body": body_of(record).decode(),
            "isChat": not record["task"].startswith("text-generation"),
        }
        for record in records
    ]
    done = subprocess.run(
        [DENO, "run", "--config", "deno.json", "tests/collect.ts"],
        cwd=FUNCTION,
        env=ENVIRONMENT,
        input=orjson.dumps(asked),
        capture_output=True,
        timeout=60,
        check=True,
    )
    found = orjson.loads(done.stdout)
    differing = {
        record["name"]: (of_function, of_server)
        for record, of_function in zip(records, found, strict=True)
        if _comparable(of_function, record) != (of_server := _comparable(_read(record), record))
    }
    assert differing == {}


def _comparable(found: dict[str, Any], record: Record) -> dict[str, Any]:
    """The server alone puts HTTP's own phrase where nobody said anything, and cuts long words later."""
    if "message" not in found:
        return found
    phrase = HTTPStatus(record["response"]["status"]).phrase
    return found | {"message": found["message"].replace(f": {phrase}.", ".")[:MAX_WORDS]}


def _read(record: Record) -> dict[str, Any]:
    """What the server makes of an answer, under the function's names."""
    last = decipher(record, [body_of(record)])[-1]
    assert isinstance(last, (Completed, Failure))
    if isinstance(last, Failure) and record["response"]["status"] >= HTTPStatus.MULTIPLE_CHOICES:
        error = last.error
        return {
            "message": error.message,
            "isTransient": error.is_transient,
            "isModelMissing": error.is_model_missing,
            "retryAfterS": error.retry_after_s,
        }
    counts = {"token_used": last.usage.token_used, "token_count": last.usage.token_count}
    if isinstance(last, Completed):
        return {"status": "completed", "output_data": last.output_data, "error_msg": None, **counts}
    outcome = "pending" if last.error.is_transient else "failed"
    return {"status": outcome, "output_data": last.output_data, "error_msg": last.error.message, **counts}


def test_the_default_models_are_those_of_the_server() -> None:
    defaults = orjson.loads((FUNCTION / "models.json").read_bytes())
    assert defaults == {
        "chat-completion": list(ROUTER_CHAT_MODELS),
        "text-generation": list(ROUTER_GENERATION_MODELS),
    }
