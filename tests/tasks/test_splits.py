"""Which rows are held out, and which are used, by counting."""

from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasks.splits import first_of_each_class, hold_out, in_turn
from tests.support.examples import examples

several_rows_each = st.lists(st.integers(0, 5), min_size=1, max_size=80).map(lambda half: np.array(half + half[::-1]))


@examples(200)
@given(several_rows_each, st.floats(0.01, 0.5))
def test_hold_out_parts_every_class_once_by_the_share(labels, share):
    kept, held = hold_out(labels, share)
    assert sorted([*kept, *held]) == list(range(len(labels)))  # disjoint, and nothing is left out
    assert list(kept) == sorted(kept) and list(held) == sorted(held)
    for label, rows in Counter(labels.tolist()).items():
        expected = max(1, round(share * rows))
        assert (labels[held] == label).sum() == expected < rows


@examples(100)
@given(several_rows_each, st.floats(0.01, 0.5), st.randoms(use_true_random=False))
def test_the_share_of_a_class_does_not_depend_on_the_order_of_the_rows(labels, share, random):
    shuffled = labels.tolist()
    random.shuffle(shuffled)
    shuffled = np.array(shuffled)
    assert Counter(labels[hold_out(labels, share)[1]]) == Counter(shuffled[hold_out(shuffled, share)[1]])


def test_the_last_rows_of_a_class_are_held_out():
    labels = np.array([0, 1, 0, 0, 1, 1, 0, 1, 1])
    kept, held = hold_out(labels, 0.4)
    assert held.tolist() == [3, 6, 7, 8]  # 2 of the four 0s, 2 of the five 1s
    assert kept.tolist() == [0, 1, 2, 4, 5]


def test_hold_out_draws_nothing():
    labels = np.repeat(np.arange(3), 7)
    first = hold_out(labels, 0.3)
    np.random.seed(1)
    assert all(np.array_equal(a, b) for a, b in zip(first, hold_out(labels, 0.3), strict=True))


def test_a_class_of_a_single_row_is_kept():
    keep, out = hold_out(np.array([0, 0, 7, 1, 1]), 0.2)
    assert keep.tolist() == [0, 2, 3] and out.tolist() == [1, 4]


@pytest.mark.parametrize("labels", [[], [3], [0, 1, 2]])
def test_rows_of_which_none_can_be_held_out_are_refused(labels):
    with pytest.raises(ValueError, match=f"{len(labels)} rows are too few"):
        hold_out(np.array(labels, np.int64), 0.2)


# Subsets.


@examples(200)
@given(several_rows_each, st.integers(1, 100))
def test_a_subset_takes_the_classes_in_turn(labels, rows):
    remaining = {label: np.flatnonzero(labels == label).tolist() for label in sorted(set(labels.tolist()))}
    expected = []
    while len(expected) < min(rows, len(labels)):
        for own in remaining.values():
            if own and len(expected) < rows:
                expected.append(own.pop(0))
    assert first_of_each_class(labels, rows).tolist() == sorted(expected)


@examples(100)
@given(several_rows_each, st.integers(1, 100))
def test_a_larger_subset_has_the_smaller_in_it_and_classes_differ_by_one_row_at_most(labels, rows):
    smaller, larger = (set(first_of_each_class(labels, n).tolist()) for n in (rows, rows + 1))
    assert smaller <= larger and len(smaller) == min(rows, len(labels))
    taken = Counter(labels[sorted(smaller)].tolist())
    unfinished = [taken[label] for label, own in Counter(labels.tolist()).items() if taken[label] < own]
    assert not unfinished or max(taken.values()) - min(unfinished) <= 1


@pytest.mark.parametrize("rows", [None, 9, 10])
def test_a_subset_of_all_rows_is_all_of_them_in_order(rows):
    assert first_of_each_class(np.array([0, 1, 0, 0, 1, 1, 0, 1, 1]), rows).tolist() == list(range(9))


@examples(50)
@given(st.integers(0, 60))
def test_of_every_five_rows_three_train_one_validates_and_one_tests(rows):
    parts = in_turn(rows)
    assert sorted(row for part in parts.values() for row in part) == list(range(rows))
    for row in range(rows):
        assert row in parts[["train", "train", "train", "val", "test"][row % 5]]
