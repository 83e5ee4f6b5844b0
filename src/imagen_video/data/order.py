"""In which order samples come: functions of a position, so that a position is all of the state."""

from bisect import bisect_right
from collections.abc import Sequence
from itertools import accumulate

MASK = (1 << 64) - 1


def mixed(*numbers: int) -> int:
    """64 bits that look random and depend on every number (splitmix64)."""
    state = 0
    for number in numbers:
        state = (state ^ number) + 0x9E3779B97F4A7C15 & MASK
        state = (state ^ state >> 30) * 0xBF58476D1CE4E5B9 & MASK
        state = (state ^ state >> 27) * 0x94D049BB133111EB & MASK
        state ^= state >> 31
    return state


def fraction(*numbers: int) -> float:
    """A number in [0, 1) that looks random and depends on every number given."""
    return mixed(*numbers) / 2**64


def permuted(place: int, count: int, key: int) -> int:
    """Where `place` goes in a pseudo-random permutation of range(count), in no memory.

    A Feistel network over the next even number of bits, walked until it lands inside the range.
    """
    half = max(1, ((count - 1).bit_length() + 1) // 2)
    low = (1 << half) - 1
    while True:
        left, right = place >> half, place & low
        for turn in range(4):
            left, right = right, left ^ mixed(key, turn, right) & low
        place = left << half | right
        if place < count:
            return place


class Shuffled:
    """Endless positions -> items of consecutive blocks, every epoch in a new order.

    Blocks (tars) come one after the other, so that each is fetched once an epoch.
    """

    def __init__(self, blocks: Sequence[int], seed: int):
        self.blocks, self.seed, self.count = blocks, seed, sum(blocks)
        self.first = [0, *accumulate(blocks)]
        self._epoch: tuple[int, list[int], list[int]] = (-1, [], [])

    def __getitem__(self, position: int) -> int:
        epoch, place = divmod(position, self.count)
        if self._epoch[0] != epoch:
            turns = range(len(self.blocks))
            order = [permuted(i, len(turns), mixed(self.seed, epoch)) for i in turns]
            self._epoch = epoch, order, [0, *accumulate(self.blocks[i] for i in order)]
        _, order, starts = self._epoch
        turn = bisect_right(starts, place) - 1
        block = order[turn]
        inside = permuted(
            place - starts[turn], self.blocks[block], mixed(self.seed, epoch, block + 1)
        )
        return self.first[block] + inside
