"""The edge function's own tests, in the real Deno, and what it shares with the server."""

import os
import subprocess
import sys
from pathlib import Path

import orjson

from server.catalog import ROUTER_CHAT_MODELS, ROUTER_GENERATION_MODELS

ROOT = Path(__file__).parents[2]
FUNCTION = ROOT / "supabase" / "functions" / "hf-inference"
TAPES = ROOT.parent / "shared" / "tapes"


def test_the_tests_in_deno_pass() -> None:
    deno = Path(sys.executable).parent / "deno"
    tapes = {"TAPES": str(TAPES)} if TAPES.is_dir() else {}
    done = subprocess.run(
        [deno, "test", "--config", "deno.json", "--allow-net=127.0.0.1", "--allow-env", "--allow-read", "tests"],
        cwd=FUNCTION,
        env=os.environ | {"DENO_DIR": str(deno.parents[1] / "deno"), "NO_COLOR": "1"} | tapes,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    print(done.stdout)
    assert done.returncode == 0, done.stdout[-8000:] + done.stderr[-4000:]


def test_the_default_models_are_those_of_the_server() -> None:
    defaults = orjson.loads((FUNCTION / "models.json").read_bytes())
    assert defaults == {
        "chat-completion": list(ROUTER_CHAT_MODELS),
        "text-generation": list(ROUTER_GENERATION_MODELS),
    }
