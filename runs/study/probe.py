"""The probe for bias: what is made where the prompt leaves it open, against what the data holds.

counts = counted(map(classify, clips))     # classify: any function clip -> {attribute: value}
departure(counts["style"], {"3D render": 0.5, "flat vector art": 0.5})
"""

from collections import Counter
from collections.abc import Iterable, Mapping


def counted(answers: Iterable[Mapping[str, str]]) -> dict[str, dict[str, int]]:
    """How often each value of each attribute is seen in clips, by what a classifier answers."""
    found: dict[str, Counter[str]] = {}
    for answer in answers:
        for attribute, value in answer.items():
            found.setdefault(attribute, Counter())[value] += 1
    return {attribute: dict(counts) for attribute, counts in found.items()}


def shares_of(facts: Iterable[Mapping[str, str]], attribute: str) -> dict[str, float]:
    """The shares of an attribute's values in what is known of data."""
    counts = Counter(fact[attribute] for fact in facts)
    total = sum(counts.values())
    return {value: count / total for value, count in counts.items()}
