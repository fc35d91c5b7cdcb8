"""What is remembered of models that fail and of a token that is refused, and for how long."""

import pytest

from server.inference import circuits
from server.inference.circuits import PROBE_PAUSE_S, REFUSED_S, THRESHOLD, ModelCircuits, TokenRefusals
from server.inference.protocol import UpstreamError
from tests.fakes.clock import Clock

MODELS = ("org/a", "org/b", "org/c:groq")
NO_CREDITS = UpstreamError("No credits.", status=402)
BAD_TOKEN = UpstreamError("Bad token.", status=401)


@pytest.fixture
def models(clock: Clock) -> ModelCircuits:
    return ModelCircuits(clock=clock)


@pytest.fixture
def token(clock: Clock) -> TokenRefusals:
    return TokenRefusals(clock=clock)


def fail(models: ModelCircuits, model: str, provider: str | None = None, *, times: int = THRESHOLD) -> None:
    for _ in range(times):
        models.fail(model, provider)


# Models


def test_a_chain_keeps_its_order_while_nothing_fails(models: ModelCircuits) -> None:
    assert models.order(MODELS) == MODELS
    fail(models, "org/a", times=THRESHOLD - 1)
    assert models.order(MODELS) == MODELS


def test_a_model_that_fails_goes_to_the_end(models: ModelCircuits) -> None:
    fail(models, "org/a")
    assert models.order(MODELS) == ("org/b", "org/c:groq", "org/a")
    fail(models, "org/b")
    assert models.order(MODELS) == ("org/c:groq", "org/a", "org/b")


def test_a_chain_of_one_is_asked_all_the_same(models: ModelCircuits) -> None:
    fail(models, "org/a")
    assert models.order(("org/a",)) == ("org/a",)
    assert models.order(()) == ()


def test_a_model_that_is_missing_is_missed_once(models: ModelCircuits) -> None:
    models.fail("org/a", None, is_missing=True)
    assert models.order(MODELS)[0] == "org/b"


def test_one_call_now_and_then_finds_out_whether_it_is_back(models: ModelCircuits, clock: Clock) -> None:
    fail(models, "org/a")
    clock.now += PROBE_PAUSE_S
    assert [models.order(MODELS)[0] for _ in range(3)] == ["org/a", "org/b", "org/b"]
    models.fail("org/a", None)
    assert models.order(MODELS)[0] == "org/b"
    clock.now += PROBE_PAUSE_S
    assert models.order(MODELS)[0] == "org/a"
    models.succeed("org/a", None)
    assert [models.order(MODELS)[0] for _ in range(3)] == ["org/a"] * 3


def test_a_success_in_between_begins_the_count_anew(models: ModelCircuits) -> None:
    for _ in range(3):
        fail(models, "org/a", times=THRESHOLD - 1)
        models.succeed("org/a", None)
    assert models.order(MODELS) == MODELS


def test_a_model_is_as_good_as_the_provider_that_answered_last(models: ModelCircuits) -> None:
    fail(models, "org/a", "nebius")
    assert models.order(MODELS)[0] == "org/b"
    models.succeed("org/a", "groq")
    assert models.order(MODELS)[0] == "org/a"
    models.fail("org/a", "nebius")
    assert models.order(MODELS)[0] == "org/b"


def test_a_failure_without_an_answer_counts_for_who_answered_last(models: ModelCircuits) -> None:
    fail(models, "org/a:fastest", "groq", times=THRESHOLD - 1)
    models.fail("org/a:fastest", None)
    assert models.order(("org/a:fastest", "org/b"))[0] == "org/b"


def test_a_model_pinned_to_another_provider_is_another_model(models: ModelCircuits) -> None:
    fail(models, "org/c:groq")
    assert models.order(("org/c:groq", "org/c:novita"))[0] == "org/c:novita"


def test_the_tables_are_bounded(models: ModelCircuits, token: TokenRefusals, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(circuits, "MAX_ENTRIES", 10)
    for number in range(100):
        models.fail(f"org/{number}", f"provider-{number}")
        models.succeed(f"other/{number}", f"provider-{number}")
        token.record(f"org/{number}", NO_CREDITS, None)
    assert len(models._circuits) == len(models._providers) == len(token._refusals) == 10


# The token


def test_a_refused_token_is_refused_for_every_model(token: TokenRefusals) -> None:
    token.record("org/a", BAD_TOKEN, None)
    assert token.find("org/a") == token.find("org/b") == BAD_TOKEN


def test_a_provider_that_says_401_speaks_of_its_model_only(token: TokenRefusals) -> None:
    token.record("org/a", BAD_TOKEN, "groq")
    assert token.find("org/a") == BAD_TOKEN
    assert token.find("org/b") is None


@pytest.mark.parametrize("status", [402, 403])
def test_credits_and_permissions_are_asked_for_by_model(token: TokenRefusals, status: int) -> None:
    token.record("org/a", UpstreamError("No.", status=status), None)
    assert token.find("org/a") is not None
    assert token.find("org/free") is None


@pytest.mark.parametrize("status", [None, 400, 404, 429, 500, 503])
def test_other_errors_are_no_refusals(token: TokenRefusals, status: int | None) -> None:
    token.record("org/a", UpstreamError("No.", status=status), None)
    assert token.find("org/a") is None


def test_after_a_while_one_call_finds_out_for_the_others(token: TokenRefusals, clock: Clock) -> None:
    token.record("org/a", NO_CREDITS, None)
    clock.now += REFUSED_S - 1
    assert token.find("org/a") == NO_CREDITS
    clock.now += 1
    assert [token.find("org/a") for _ in range(3)] == [None, NO_CREDITS, NO_CREDITS]
    token.clear("org/a")
    assert token.find("org/a") is None


def test_a_probe_that_is_refused_begins_the_time_anew(token: TokenRefusals, clock: Clock) -> None:
    token.record("org/a", BAD_TOKEN, None)
    clock.now += REFUSED_S
    assert token.find("org/b") is None
    token.record("org/b", BAD_TOKEN, None)
    clock.now += REFUSED_S - 1
    assert token.find("org/a") == BAD_TOKEN


def test_a_probe_of_which_nothing_is_heard_does_not_keep_the_next_one_waiting(
    token: TokenRefusals, clock: Clock
) -> None:
    token.record("org/a", BAD_TOKEN, None)
    clock.now += REFUSED_S
    assert token.find("org/a") is None
    clock.now += circuits.PROBE_TIMEOUT_S
    assert token.find("org/a") is None
