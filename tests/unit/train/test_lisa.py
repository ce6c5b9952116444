from __future__ import annotations

from collections import Counter

from siredon.train.callbacks.lisa import draw_blocks


def test_a_draw_follows_from_seed_and_period_alone():
    assert draw_blocks(1, 5, 32, 4) == draw_blocks(1, 5, 32, 4)
    assert len({draw_blocks(1, period, 32, 4) for period in range(20)}) == 20
    assert draw_blocks(1, 5, 32, 4) != draw_blocks(2, 5, 32, 4)
    assert draw_blocks(3, 0, 4, 4) == {0, 1, 2, 3}


def test_every_block_has_its_turn_equally_often():
    turns = Counter(number for period in range(4000) for number in draw_blocks(0, period, 8, 2))
    # 1,000 each; five standard deviations of a binomial are 137
    assert set(turns) == set(range(8))
    assert all(abs(count - 1000) < 137 for count in turns.values())
