"""Other methods beside the network, on pairs that a rotation makes."""

import pytest
import torch

from invcap.captioning.train import TrainSettings


@pytest.fixture
def rotated() -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(1200, 8, generator=generator)
    rotation, _ = torch.linalg.qr(torch.randn(8, 8, generator=generator))
    return x, x @ rotation


@pytest.mark.slow
@pytest.mark.parametrize("method", ["ridge", "kernel_ridge", "procrustes", "mlp"])
def test_each_method_learns_a_rotation_and_its_inverse(script, rotated, method):
    fit = getattr(script("baselines"), method)
    x, e = rotated
    for one, other in ((x, e), (e, x)):
        found = fit(one[:1000], other[:1000]).apply(one[1000:])
        assert (found - other[1000:]).square().mean() < 0.3


@pytest.mark.slow
def test_the_table_has_a_row_for_each_method_with_three_seeds_of_ours(
    script, rotated, accelerator, monkeypatch
):
    real_pictures = script("real_pictures")
    settings = TrainSettings(depth=2, batch_size=64, steps=200, contrastive=0.5)
    monkeypatch.setattr(real_pictures, "REAL", settings)
    x, e = rotated
    every = torch.arange(600)
    sides = [real_pictures.Sides(x[at], e[at], every, every) for at in (every, every + 600)]
    rows = list(real_pictures.compare("made up", *sides, 3, accelerator))
    assert [len(row.recall) for row in rows] == [3, 3, 1, 1, 1, 1, 1]
    assert rows[1].recall.min() > 0.25 and " ± " in rows[1].line()
    assert all(row.line().count("|") == 11 for row in rows)


def test_recall_is_that_of_pairs_found_in_both_directions(script):
    sides = script("real_pictures").Sides(
        torch.eye(3), torch.eye(3), torch.arange(3), torch.arange(3)
    )
    found = script("real_pictures").recall(torch.eye(3), torch.eye(3).roll(1, 0), sides)
    assert found == [[1, 1, 1, 0, 1, 1]] * 2


def test_titles_are_searched_without_the_other_sentences(script):
    real_pictures = script("real_pictures")
    e = torch.tensor([[1.0, 0.1], [1.0, 0.0], [0.0, 1.0]])
    image, caption = torch.tensor([0, 0, 1]), torch.tensor([0, 1, 2])
    sides = real_pictures.Sides(torch.eye(2), e, image, caption)
    drawn = torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.0, 1.0]])
    every, titles = real_pictures.recall(torch.tensor([[0.0, 1.0], [0.0, 1.0]]), drawn, sides)
    assert every == pytest.approx([0.5, 1, 1, 2 / 3, 1, 1])
    assert titles == pytest.approx([0.5, 1, 1, 1, 1, 1])
