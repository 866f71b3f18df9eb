"""Search seeds and evaluation seeds: of one study, and of several, which share none."""

from __future__ import annotations

from typing import Any

import pytest

from tests.support.plain_configs import SEED, config, refusal


@pytest.mark.parametrize(
    ("asked", "seeds"), [(3, [0, 1, 2]), (1, [0]), ([5], [5]), ([7, 3], [7, 3]), ([0, 2**63 - 1], [0, 2**63 - 1])]
)
def test_seeds_are_a_number_or_a_list(asked: object, seeds: list[int]) -> None:
    assert config(retrain__seeds=asked).retrain.seeds == seeds


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        (0, "at least 1"),
        (-2, "at least 1"),
        ([], "at least 1"),
        ([1, 2, 1], "1 is named twice"),
        ([-1], "got -1"),
        ([2**63], f"got {2**63}"),
        ([1.5], "got 1.5"),
        ("a", "got 'a'"),
        (None, "got None"),
        (SEED + 1, f"{SEED} is the search seed"),
        ([1, SEED], f"{SEED} is the search seed"),
    ],
)
def test_seeds_that_are_not_valid_are_named(asked: object, said: str) -> None:
    text = refusal(retrain__seeds=asked)
    assert text.startswith("retrain.seeds")
    assert said in text


@pytest.mark.parametrize("studies", [0, -1, 1001, 10**30, "3", "many", True, 1.5, 3.0, [3], None, {}])
def test_a_number_of_studies_is_whole_and_sensible(studies: Any) -> None:
    text = refusal(search__studies=studies)
    assert text.startswith("search.studies") and "\n" not in text


def test_studies_have_search_seeds_in_turn_and_evaluation_seeds_apart() -> None:
    several = config(search__studies=4, search__seed=2**32 - 1, retrain__seeds=[3, 0, 9_999])
    assert [several.search_seed(study) for study in several.studies] == [2**32 - 1 + study for study in range(4)]
    seeds = [several.evaluation_seeds(study) for study in several.studies]
    assert seeds[0] == [3, 0, 9_999] and seeds[3] == [30_003, 30_000, 39_999]
    assert len({seed for own in seeds for seed in own}) == 12 == several.retraining_runs


@pytest.mark.parametrize(
    ("studies", "seeds", "said"),
    [
        (3, [SEED + 2], f"{SEED + 2} is the search seed of study 2"),
        (3, [0, SEED], f"{SEED} is the search seed of study 0"),
        (2, [5, 10_005], "5 and 10005 are the same for two of 2 studies"),
        (3, [20_007, 7], "7 and 20007 are the same for two of 3 studies"),
        (9, [2**63 - 1], f"must be below 2^63 in all 9 studies, got {2**63 - 1 + 80_000}"),
    ],
)
def test_seeds_that_two_studies_would_share_are_named(studies: int, seeds: list[int], said: str) -> None:
    text = refusal(search__studies=studies, retrain__seeds=seeds)
    assert text.startswith("retrain.seeds") and said in text and "\n" not in text


@pytest.mark.parametrize(
    ("studies", "seeds"),
    [(1, [5, 10_005]), (2, [7, 20_007]), (1, [SEED + 1]), (1000, [0, 9_999]), (8, [1, 80_001])],
)
def test_seeds_that_no_two_studies_share_are_taken(studies: int, seeds: list[int]) -> None:
    assert config(search__studies=studies, search__seed=SEED, retrain__seeds=seeds).retrain.seeds == seeds


def test_a_search_seed_far_up_is_no_evaluation_seed_of_a_later_study() -> None:
    """Evaluation seeds of study 2 begin at 20,000."""
    text = refusal(search__studies=3, search__seed=20_003, retrain__seeds=[3, 5])
    assert "20003 is the search seed" in text
    assert config(search__studies=2, search__seed=20_003, retrain__seeds=[3, 5]).search.studies == 2


def test_another_search_seed_frees_the_evaluation_seed() -> None:
    assert config(search__seed=7, retrain__seeds=[SEED]).retrain.seeds == [SEED]
