import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from PIL import Image

from invcap.data import Example, split_by_group


def examples(groups: list[str]) -> list[Example]:
    return [
        Example(str(i), ("a picture",), group, lambda: Image.new("RGB", (1, 1)))
        for i, group in enumerate(groups)
    ]


@given(
    st.lists(st.text(max_size=3), min_size=2, max_size=20),
    st.floats(0.05, 0.95),
    st.integers(0, 2**32),
)
def test_sides_are_disjoint_complete_and_share_no_group(groups, held_out, seed):
    items = examples(groups)
    try:
        train, held = split_by_group(items, held_out, seed)
    except ValueError:
        assume(False)
    assert sorted(train + held) == list(range(len(items)))
    assert not {groups[i] for i in train} & {groups[i] for i in held}


def test_adding_examples_moves_none():
    groups = [f"group {i}" for i in range(200)]
    _, before = split_by_group(examples(groups), 0.2, seed=0)
    _, after = split_by_group(examples(["new 1", *groups, "new 2"]), 0.2, seed=0)
    assert before == [i - 1 for i in after if 1 <= i <= 200]


def test_the_split_is_the_same_on_every_machine_and_in_every_version():
    groups = [f"group {i}" for i in range(20)]
    assert split_by_group(examples(groups), 0.3, seed=7)[1] == [2, 4, 9, 11, 13, 16, 19]


def test_the_share_is_met_on_average_and_the_seed_matters():
    items = examples([f"group {i}" for i in range(4000)])
    one, other = (split_by_group(items, 0.25, seed)[1] for seed in (1, 2))
    assert 900 < len(one) < 1100
    assert one != other


@pytest.mark.parametrize("share", [0, 1, -0.1, 1.5, float("nan")])
def test_a_share_out_of_range_is_an_error(share: float):
    with pytest.raises(ValueError, match="held_out: expected a share"):
        split_by_group(examples(["a", "b"]), share, seed=0)


@pytest.mark.parametrize("share", [0.01, 0.99])
def test_an_empty_side_is_an_error_that_counts_the_groups(share: float):
    with pytest.raises(ValueError, match=r"no (training|held-out) example: 3 examples in 1 groups"):
        split_by_group(examples(["a", "a", "a"]), share, seed=0)
