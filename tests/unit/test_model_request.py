"""Ids that stand in the order of time, and the states of a model request."""

import time
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from threading import Barrier
from uuid import RFC_4122, UUID

import pytest

from server import model_request as model_request_module
from server.model_request import FINAL, Status, Usage, mint_id
from tests.fakes.clock import Clock
from tests.unit.actors.test_workload import model_request

THREADS = 8


def test_an_id_is_a_uuid_of_version_7() -> None:
    for _ in range(200):
        minted = mint_id()
        assert (minted.version, minted.variant) == (7, RFC_4122)


def test_an_id_begins_with_the_millisecond_of_its_making() -> None:
    before = time.time_ns() // 1_000_000
    stamp = mint_id().int >> 80
    assert before <= stamp <= time.time_ns() // 1_000_000 + 1  # one may have been borrowed from the future


def test_ids_of_one_thread_rise_strictly() -> None:
    ids = [mint_id() for _ in range(20_000)]
    assert all(one < two for one, two in pairwise(ids))


def test_ids_rise_strictly_while_the_clock_stands_or_goes_back(monkeypatch: pytest.MonkeyPatch) -> None:
    class WallClock:
        now = time.time_ns() + 10**9

        def time_ns(self) -> int:
            return self.now

    clock = WallClock()
    with monkeypatch.context() as patch:
        patch.setattr(model_request_module, "time", clock)
        patch.setattr(model_request_module, "_last_stamp", 0)
        ids = [mint_id() for _ in range(5_000)]
        clock.now -= 60 * 10**9
        ids += [mint_id() for _ in range(5_000)]
    assert all(one < two for one, two in pairwise(ids))
    assert all((minted.version, minted.variant) == (7, RFC_4122) for minted in ids)


def test_threads_never_mint_the_same_id_and_each_sees_its_own_rise() -> None:
    start = Barrier(THREADS)

    def mint() -> list[UUID]:
        start.wait()
        return [mint_id() for _ in range(2_000)]

    with ThreadPoolExecutor(THREADS) as pool:
        parts = [future.result() for future in [pool.submit(mint) for _ in range(THREADS)]]
    assert all(one < two for part in parts for one, two in pairwise(part))
    stamps = {minted.int >> 64 for part in parts for minted in part}  # without the random bits
    assert len(stamps) == THREADS * 2_000


def test_an_id_that_is_minted_later_in_another_thread_is_greater() -> None:
    ids = []
    with ThreadPoolExecutor(1) as one, ThreadPoolExecutor(1) as two:
        for _ in range(500):
            ids += [one.submit(mint_id).result(), two.submit(mint_id).result()]
    assert all(earlier < later for earlier, later in pairwise(ids))


def test_three_states_are_final() -> None:
    assert {status for status in Status if status.is_final} == FINAL
    assert sorted(FINAL) == ["cancelled", "completed", "failed"]


def test_the_time_left_runs_by_the_monotonic_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    claimed, clock = model_request(), Clock()
    clock.now = claimed.claimed_at + 45.0
    monkeypatch.setattr(model_request_module, "time", clock)
    assert claimed.seconds_left() == pytest.approx(555.0)


@pytest.mark.parametrize(
    ("usage", "fields"),
    [
        (Usage(), None),
        (Usage(8, None, 8), {"prompt_tokens": 8, "total_tokens": 8}),
        (Usage(135, 103, 32), {"prompt_tokens": 32, "completion_tokens": 103, "total_tokens": 135}),
        (Usage(2, 5), {"prompt_tokens": 0, "completion_tokens": 5, "total_tokens": 2}),
        (Usage(None, 2), {"completion_tokens": 2}),
        (Usage(None, None, 7, {"prompt_tokens_details": {"cached_tokens": 3}}),
         {"prompt_tokens": 7, "prompt_tokens_details": {"cached_tokens": 3}}),
    ],
)  # fmt: skip
def test_u3_usage_has_openais_names_and_only_known_counts(usage: Usage, fields: dict[str, object] | None) -> None:
    assert usage.as_fields() == fields
