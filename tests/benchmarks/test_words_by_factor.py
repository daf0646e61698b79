import pytest

from invcap.data.shapes import Scene

SCENE = Scene("large", "red", "square", "in the top left corner", "black")


@pytest.mark.parametrize(
    ("said", "wrong"),
    [
        (SCENE.caption(), set()),
        (SCENE.caption().replace("in the", "on the"), set()),
        (SCENE.caption().replace("red", "blue"), {"colour"}),
        (SCENE.caption().replace("top left corner", "top"), {"place"}),
        (SCENE.caption().replace("black", "red").replace("large", "small"), {"size", "background"}),
        ("black background", {"size", "colour", "shape", "place", "background"}),
    ],
)
def test_a_factor_is_right_where_the_words_name_it(script, said, wrong):
    right = script("words_by_factor").right(said, SCENE)
    assert {name for name, named in right.items() if not named} == wrong


def test_shares_are_of_all_drawings(script):
    by_factor = script("words_by_factor")
    said = (SCENE.caption(), "black background")
    rows = [
        {"right": by_factor.right(text, SCENE), "evaluations": cost}
        for text, cost in zip(said, (5, 9), strict=True)
    ]
    found = by_factor.summary(rows)
    assert (found["drawings"], found["shape"], found["evaluations"]) == (2, 0.5, 9)
