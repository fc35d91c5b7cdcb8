"""Families: samples of each kind of value, handed over and merged, in both text formats."""

import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families as read_openmetrics
from prometheus_client.parser import text_string_to_metric_families as read_text

from server.monitoring.families import Family, Kind, Reading, dump, load, merge, render, samples_of
from server.telemetry.instruments import Counters, Histograms

OPENMETRICS = "application/openmetrics-text;version=1.0.0"


def family(name: str, kind: Kind, reading: Reading, *labels: str, worker: str = "0") -> Family:
    return Family(name, kind, "Help.", list(samples_of(reading, kind, labels, {"worker": worker})))


def test_the_buckets_of_a_histogram_are_cumulative_and_their_bounds_inclusive() -> None:
    histograms = Histograms((1.0, 2.5))
    for value in (1.0, 1.1, 2.5, 7.0):
        histograms.observe(value, ("x",))
    assert {
        (suffix, labels.get("le")): value
        for suffix, labels, value in samples_of(histograms, Kind.HISTOGRAM, ("task",), {"worker": "0"})
    } == {
        ("_bucket", "1.0"): 1,
        ("_bucket", "2.5"): 3,
        ("_bucket", "+Inf"): 4,
        ("_count", None): 4,
        ("_sum", None): 11.6,
    }


def test_counters_have_a_sample_for_each_combination_and_grow() -> None:
    counters = Counters()
    counters.add(("a", "b"))
    counters.add(("a", "b"), 2)
    counters.add(("a", "c"))
    assert list(samples_of(counters, Kind.COUNTER, ("one", "two"), {})) == [
        ("_total", {"one": "a", "two": "b"}, 3),
        ("_total", {"one": "a", "two": "c"}, 1),
    ]
    assert list(samples_of(0, Kind.COUNTER, (), {"worker": "1"})) == [("_total", {"worker": "1"}, 0)]


def test_a_value_that_is_not_known_has_no_sample() -> None:
    assert list(samples_of(None, Kind.GAUGE, (), {})) == []


@pytest.mark.parametrize(
    ("accept", "read"), [("", read_text), ("text/plain", read_text), (OPENMETRICS, read_openmetrics)]
)
def test_families_of_two_workers_are_one_family_in_every_format(accept: str, read: object) -> None:
    histograms = Histograms((1.0,))
    histograms.observe(0.5)
    groups = [
        load(dump([
            family("up", Kind.GAUGE, value, worker=worker),
            family("losses", Kind.COUNTER, 3, worker=worker),
            family("lag_seconds", Kind.HISTOGRAM, histograms, worker=worker),
        ]))
        for worker, value in (("0", True), ("1", False))
    ]  # fmt: skip
    body, content_type = render(merge(groups), accept)
    assert content_type.startswith("application/openmetrics-text" if accept == OPENMETRICS else "text/plain")
    assert callable(read)
    found = {metric.name: metric for metric in read(body.decode())}
    assert set(found) == {"up", "losses", "lag_seconds"}
    assert {sample.labels["worker"]: sample.value for sample in found["up"].samples} == {"0": 1.0, "1": 0.0}
    assert {(sample.name, sample.value) for sample in found["losses"].samples} == {("losses_total", 3.0)}
    assert found["lag_seconds"].type == "histogram"


def test_a_label_value_may_hold_any_character() -> None:
    counters = Counters()
    counters.add(('a"b\\c\nd',))
    body, _ = render([family("odd", Kind.COUNTER, counters, "name")], "")
    [metric] = read_text(body.decode())
    assert metric.samples[0].labels["name"] == 'a"b\\c\nd'
