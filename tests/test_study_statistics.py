"""Intervals over seeds, and departures from the data."""

import math

import pytest
import torch
from study.probe import counted
from study.statistics import departure, difference, over_seeds, total_variation


def test_intervals_over_seeds():
    found = over_seeds([1.0, 2.0, 3.0])
    assert found.mean == 2
    assert found.high - found.mean == pytest.approx(4.3027 / math.sqrt(3))
    assert over_seeds([5.0]).high == math.inf
    assert over_seeds([4.0, 4.0]).low == 4
    with pytest.raises(ValueError, match="takes a value or more"):
        over_seeds([])


def test_differences_are_taken_seed_by_seed():
    found = difference({0: 1.0, 1: 12.0, 2: 23.0}, {0: 0.0, 1: 10.0, 2: 20.0, 3: 9.0})
    assert found is not None and found.mean == 2
    assert found.high - 2 == pytest.approx(4.3027 / math.sqrt(3))
    assert difference({0: 1.0}, {1: 1.0}) is None


def test_the_interval_holds_the_truth_in_19_of_20():
    draws = torch.randn(2000, 3, generator=torch.Generator().manual_seed(0))
    found = [over_seeds(row) for row in draws.tolist()]
    assert sum(f.low <= 0 <= f.high for f in found) / 2000 == pytest.approx(0.95, abs=0.015)


def test_departure_from_the_data():
    even = {"a": 0.5, "b": 0.5}
    same = departure({"a": 50, "b": 50}, even)
    assert same.variation == 0 and same.chi_square == 0 and same.p == 1
    apart = departure({"a": 60, "b": 40}, even)
    assert apart.variation == pytest.approx(0.1)
    assert apart.chi_square == pytest.approx(4.0)
    assert apart.p == pytest.approx(0.0455, abs=1e-4)
    assert apart.low < 0.1 < apart.high
    # The mean absolute deviation of a share of 100 fair draws.
    assert apart.by_chance == pytest.approx(0.0398, abs=0.002)
    assert departure({"c": 10}, even).variation == 1
    with pytest.raises(ValueError, match="cannot compare 0 samples"):
        departure({}, even)


def test_total_variation_and_counts():
    assert total_variation([0.5, 0.5, 0.0], [0.0, 0.5, 0.5]) == 0.5
    answers = [{"style": "x", "motion": "y"}, {"style": "x", "motion": "z"}]
    assert counted(answers) == {"style": {"x": 2}, "motion": {"y": 1, "z": 1}}
