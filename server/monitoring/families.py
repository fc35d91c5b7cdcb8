"""Metric families: the form in which a worker hands its metrics to others, and in which they are rendered."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum
from itertools import accumulate
from typing import Any

import orjson
from prometheus_client import Metric
from prometheus_client.exposition import choose_encoder
from prometheus_client.registry import Collector

from server.telemetry.instruments import Counters, Histograms, Labels

_INFINITY = float("inf")


class Kind(StrEnum):
    COUNTER = "counter"
    GAUGE = "gauge"
    HISTOGRAM = "histogram"


Sample = tuple[str, Mapping[str, str], float]
"""The suffix of the name, the labels, and the value."""
Reading = float | Counters | Histograms | None
"""A value as its owner holds it. None: it is not known."""


@dataclass(frozen=True, slots=True)
class Family:
    """All samples of one name. Counters are named without `_total`, which is part of their samples."""

    name: str
    kind: Kind
    help: str
    samples: list[Sample]


def samples_of(reading: Reading, kind: Kind, names: Labels, common: Mapping[str, str]) -> Iterator[Sample]:
    """The samples of a value: its labels are `names` with the values of each series, and `common`."""
    if isinstance(reading, Histograms):
        for labels, series in reading.series.items():
            yield from _buckets(reading.bounds, series, dict(zip(names, labels, strict=True), **common))
        return
    suffix = "_total" if kind is Kind.COUNTER else ""
    if isinstance(reading, Counters):
        for labels, value in reading.values.items():
            yield suffix, dict(zip(names, labels, strict=True), **common), value
    elif reading is not None:
        yield suffix, common, reading


def _buckets(bounds: tuple[float, ...], series: list[float], labels: Mapping[str, str]) -> Iterator[Sample]:
    *counts, total = series
    for bound, count in zip((*bounds, _INFINITY), accumulate(counts), strict=True):
        yield "_bucket", {**labels, "le": "+Inf" if bound == _INFINITY else str(float(bound))}, count
    yield "_count", labels, sum(counts)
    yield "_sum", labels, total


def adopt(metrics: Iterable[Metric], common: Mapping[str, str]) -> list[Family]:
    """The families of one of prometheus_client's collectors."""
    return [
        Family(
            metric.name,
            Kind(metric.type),
            metric.documentation,
            [
                (sample.name.removeprefix(metric.name), {**sample.labels, **common}, sample.value)
                for sample in metric.samples
            ],
        )
        for metric in metrics
    ]


def dump(families: list[Family]) -> bytes:
    return orjson.dumps(families)


def load(data: bytes) -> list[Family]:
    """Raises `ValueError` for data that is not of `dump`."""
    return [Family(**{**item, "kind": Kind(item["kind"])}) for item in orjson.loads(data)]


def merge(groups: Iterable[Iterable[Family]]) -> list[Family]:
    """The families of all groups, each name once."""
    merged: dict[str, Family] = {}
    for group in groups:
        for family in group:
            known = merged.setdefault(family.name, Family(family.name, family.kind, family.help, []))
            known.samples.extend(family.samples)
    return list(merged.values())


class _Collected(Collector):
    """Families as the collector that prometheus_client renders."""

    def __init__(self, families: Iterable[Family]) -> None:
        self._families = families

    def collect(self) -> Iterator[Metric]:
        for family in self._families:
            metric = Metric(family.name, family.help, family.kind.value)
            for suffix, labels, value in family.samples:
                metric.add_sample(family.name + suffix, dict(labels), value)
            yield metric


def render(families: Iterable[Family], accept: str) -> tuple[bytes, str]:
    """The text that `Accept` asks for (Prometheus or OpenMetrics), and its content type."""
    encode, content_type = choose_encoder(accept)
    body: Any = encode(_Collected(families))
    return body, content_type
