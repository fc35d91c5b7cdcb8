"""Counters and histograms. Parts record into their own; `server/monitoring` gives them names and reads them.

An observation costs a quarter of one of prometheus_client's, which searches its buckets one by one and takes two
locks. Here all recording happens on the event loop.
"""

from bisect import bisect_left
from collections.abc import Sequence

Labels = tuple[str, ...]
"""The values of the labels, in the order in which the metric names them."""
NO_LABELS: Labels = ()


class Counters:
    """A number for each combination of label values. It only grows."""

    __slots__ = ("values",)

    def __init__(self) -> None:
        self.values: dict[Labels, float] = {}

    def add(self, labels: Labels = NO_LABELS, amount: float = 1) -> None:
        self.values[labels] = self.values.get(labels, 0) + amount


class Histograms:
    """The distribution of a value, for each combination of label values. `bounds` are ascending and inclusive."""

    __slots__ = ("bounds", "series")

    def __init__(self, bounds: Sequence[float]) -> None:
        self.bounds = tuple(bounds)
        self.series: dict[Labels, list[float]] = {}
        """The observations up to each bound and above the one before, those above all bounds, and the sum of all."""

    def observe(self, value: float, labels: Labels = NO_LABELS) -> None:
        series = self.series.get(labels)
        if series is None:
            series = self.series[labels] = [0] * (len(self.bounds) + 2)
        series[bisect_left(self.bounds, value)] += 1
        series[-1] += value
