from dataclasses import replace
from pathlib import Path

import pytest
import torch
from batches import EVERY_TERM, empty_batch

from invcap.captioning.objectives import pair_losses
from invcap.captioning.pairs import Pairs
from invcap.captioning.scaler import Scaler
from invcap.captioning.train import (
    CHECKPOINT,
    REAL,
    SHAPES,
    Choices,
    TrainingModule,
    TrainSettings,
    default_settings,
    make_optimizers,
    train_network,
)
from invcap.training.trainer import LossModule, TrainerSettings, TrainingDivergedError, take_step

SETTINGS = TrainSettings(depth=3, batch_size=16, steps=12, checkpoint_every=4, seed=3)
OBJECTIVES = ("bidirectional", "caption", "likelihood")
FEATURES = 24


@pytest.fixture
def run(accelerator):
    def train(
        output: Path,
        settings: TrainSettings = SETTINGS,
        data: str = "",
        coordinates: int = FEATURES,
    ):
        generator = torch.Generator().manual_seed(0)
        x = torch.randn(40, FEATURES, generator=generator)
        e = (x.roll(1, dims=1) + 0.3 * x.square())[:, :coordinates]
        every = torch.arange(40)
        pairs = Pairs([""] * 40, x, [""] * 40, e, every, every, identity=data)
        one, other = (Scaler(torch.zeros(n), torch.ones(n)) for n in (FEATURES, coordinates))
        return train_network(pairs, one, other, settings, output, accelerator)

    return train


@pytest.mark.parametrize("optimizer", ["muon", "adamw"])
@pytest.mark.parametrize("objective", OBJECTIVES)
def test_a_run_resumed_from_a_checkpoint_gives_the_same_weights(
    run, tmp_path, objective, optimizer, monkeypatch
):
    settings = replace(SETTINGS, objective=objective, optimizer=optimizer, noise=0.1)
    whole = run(tmp_path / "whole", settings)
    save = "invcap.training.trainer.save_checkpoint"
    real = __import__("invcap.training.trainer", fromlist=["save_checkpoint"]).save_checkpoint

    def save_then_die(*arguments):
        real(*arguments)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(save, save_then_die)
        run(tmp_path / "killed", settings)
    resumed = run(tmp_path / "killed", settings)
    for name, value in whole.module.state_dict().items():
        assert torch.equal(value, resumed.module.state_dict()[name]), name
    assert whole.history == resumed.history


def test_the_inverse_is_trained_towards_the_mean_of_all_latents_of_a_caption(
    accelerator, tmp_path, monkeypatch
):
    seen = []

    def spy(network, batch, weights):
        seen.append(batch)
        return pair_losses(network, batch, weights)

    monkeypatch.setattr("invcap.captioning.train.pair_losses", spy)
    x, e = torch.randn(9, FEATURES), torch.randn(3, FEATURES)
    caption = torch.arange(9) // 3
    pairs = Pairs([""] * 9, x, [""] * 3, e, torch.arange(9), caption)
    unit = Scaler(torch.zeros(FEATURES), torch.ones(FEATURES))
    train_network(pairs, unit, unit, replace(SETTINGS, steps=1), tmp_path, accelerator)
    means = x.view(3, 3, FEATURES).mean(1)
    torch.testing.assert_close(seen[0]["expected"], means[seen[0]["pairs"][:, 1]])


@pytest.mark.slow
@pytest.mark.parametrize("objective", OBJECTIVES)
def test_training_lowers_its_loss(run, tmp_path, objective):
    settings = replace(SETTINGS, objective=objective, steps=150, noise=0.05)
    total = torch.tensor(list(run(tmp_path, settings).history.values())).sum(0)
    assert total[-10:].mean() < total[:10].mean() - 0.3


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_a_step_forward_and_backward_leaves_nothing_on_the_cpu(accelerator, objective):
    settings = replace(EVERY_TERM, objective=objective)
    module = TrainingModule(FEATURES, settings).to("meta")
    optimizers = make_optimizers(module, settings)
    batch = empty_batch("meta", FEATURES, 10)
    forward = LossModule(module, lambda module, batch: module.losses(settings, batch))
    losses = take_step(forward, [batch], [1.0], optimizers, TrainerSettings(1, 16), accelerator)
    assert all(loss.device.type == "meta" for loss in losses.values())
    assert objective == "likelihood" or {*losses} >= {"caption", "contrastive", "residual"}


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_a_network_with_padding_learns_too(run, tmp_path, objective):
    settings = replace(SETTINGS, objective=objective, padding=8, noise=0.3, steps=100)
    trained = run(tmp_path, settings)
    assert trained.module.network.features == FEATURES + 8
    for name, values in trained.history.items():
        assert sum(values[-10:]) < sum(values[:10]), name


def test_a_contrastive_term_joins_the_errors_and_falls(run, tmp_path):
    settings = replace(SETTINGS, contrastive=0.5, steps=100, batch_size=32)
    history = run(tmp_path, settings).history
    assert {*history} == {"caption", "generation", "contrastive"}
    for name, values in history.items():
        assert sum(values[-10:]) < 0.5 * sum(values[:10]), name


@pytest.mark.slow
def test_the_robust_inverse_forgives_disturbed_outputs_without_captions(run, tmp_path):
    plain = replace(SETTINGS, objective="caption", steps=300, batch_size=40, negative_slope=0.2)
    x = torch.randn(200, FEATURES, generator=torch.Generator().manual_seed(1))
    errors = []
    for name, weight in (("robust", 1.0), ("plain", 0.0)):
        network = run(tmp_path / name, replace(plain, robust_inverse=weight)).module.network
        with torch.no_grad():
            errors.append((network.inverse(network(x) + 0.1) - x).square().mean())
    assert errors[0] < 0.5 * errors[1]


@pytest.mark.slow
def test_the_residual_is_trained_to_be_a_unit_normal_that_does_not_know_the_caption(
    accelerator, tmp_path
):
    e, other = torch.randn(2, 2000, 8, generator=torch.Generator().manual_seed(0))
    x = torch.cat([e, 0.8 * e + 0.6 * other], 1)
    every = torch.arange(len(x))
    pairs = Pairs([""] * len(x), x, [""] * len(x), e, every, every)
    scalers = (Scaler(torch.zeros(n), torch.ones(n)) for n in (16, 8))
    settings = replace(SETTINGS, objective="caption", steps=400, batch_size=256)
    trained = train_network(pairs, *scalers, settings, tmp_path, accelerator)
    with torch.no_grad():
        found, residual = trained.module.network(x).tensor_split(2, 1)
    assert (found - e).square().mean() < 0.05
    assert (residual.T @ e / len(x)).abs().max() < 0.25
    assert 0.85 < residual.std() < 1.15


@pytest.mark.slow
def test_the_inverse_draws_the_several_latents_of_a_caption_by_variations(accelerator, tmp_path):
    e, place = torch.randn(2, 2000, 8, generator=torch.Generator().manual_seed(0))
    place = place[:, :2].repeat(1, 4)  # two numbers that captions do not say, seen at four sites
    every = torch.arange(len(e))
    pairs = Pairs([""] * len(e), torch.cat([e, place], 1), [""] * len(e), e, every, every)
    scalers = (Scaler(torch.zeros(n), torch.ones(n)) for n in (16, 8))
    settings = replace(SETTINGS, variations=2, steps=400, batch_size=256)
    network = train_network(pairs, *scalers, settings, tmp_path, accelerator).module.network
    beside = torch.zeros(500, 8)
    beside[:, :2] = torch.randn(500, 2, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        said, drawn = network.inverse(torch.cat([e[:1].expand(500, -1), beside], 1)).split(8, 1)
    assert (said - e[:1]).square().mean() < 0.1
    assert 0.7 < drawn.std() < 1.3
    same = drawn.unflatten(1, (4, 2))
    assert (same - same.mean(1, keepdim=True)).std() < 0.3


@pytest.mark.parametrize(
    ("change", "coordinates"), [({"contrastive": 1.0}, FEATURES), ({}, FEATURES - 1)]
)
def test_terms_over_a_batch_need_parts_of_one_size(run, tmp_path, change, coordinates):
    settings = replace(SETTINGS, gradient_accumulation=3, **change)
    with pytest.raises(ValueError, match=r"batch_size must be a multiple of 3, .* got 16"):
        run(tmp_path, settings, coordinates=coordinates)


def test_another_seed_gives_other_weights(run, tmp_path):
    one = run(tmp_path / "one").module
    other = run(tmp_path / "other", replace(SETTINGS, seed=4)).module
    assert not torch.equal(one.network.layers[0].lu, other.network.layers[0].lu)


@pytest.mark.parametrize(
    ("change", "data", "named"),
    [({"depth": 4}, "same", "depth"), ({"seed": 9}, "same", "seed"), ({}, "other", "data")],
)
def test_resuming_with_other_settings_or_data_is_refused(run, tmp_path, change, data, named):
    run(tmp_path, data="same")
    with pytest.raises(ValueError, match=f"cannot resume: {named} differs"):
        run(tmp_path, replace(SETTINGS, **change), data=data)


def test_a_loss_that_is_not_finite_stops_and_keeps_the_last_good_checkpoint(run, tmp_path):
    settings = replace(SETTINGS, learning_rate=1e12, optimizer="adamw", checkpoint_every=1)
    with pytest.raises(TrainingDivergedError, match=r"the loss is (nan|inf) at step .*checkpoint"):
        run(tmp_path, settings)
    with pytest.raises(TrainingDivergedError, match="the loss is"):
        run(tmp_path, settings)
    assert (tmp_path / CHECKPOINT).exists()


def test_every_caption_of_an_image_is_drawn_and_none_of_another():
    image = torch.tensor([0, 0, 0, 1, 2, 2])
    captions_of = Choices(image, torch.tensor([5, 1, 2, 0, 4, 3]))
    drawn = captions_of.draw(torch.tensor([0] * 200 + [2] * 200), torch.Generator())
    assert set(drawn[:200].tolist()) == {5, 1, 2}
    assert set(drawn[200:].tolist()) == {4, 3}


def test_all_images_of_a_caption_are_drawn_but_no_more_than_asked():
    captions = torch.tensor([2, 0, 0, 1, 0, 0])
    images_of = Choices(captions, torch.arange(6))
    shown, weights = images_of.draw_some(torch.tensor([1, 0, 2] * 50), 3, torch.Generator())
    assert shown.shape == weights.shape == (150, 3)
    assert torch.equal(weights[:3], torch.tensor([[1.0, 0, 0], [1 / 3] * 3, [1.0, 0, 0]]))
    assert (shown[::3, 0] == 3).all() and (shown[2::3, 0] == 0).all()
    assert {*shown[1::3].flatten().tolist()} == {1, 2, 4, 5}
    assert all(len({*row}) == 3 for row in shown[1::3].tolist())


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"objective": "both"}, "objective must be one of"),
        ({"optimizer": "sgd"}, "optimizer must be one of"),
        ({"steps": 0}, "steps must be at least 1, got 0"),
        ({"objective": "likelihood"}, "noise must be above 0"),
        ({"objective": "caption", "variations": 2}, "variations must be 0 for 'caption'.* got 2"),
        ({"learning_rate": 0.0}, "learning_rate must be finite and above 0, got 0.0"),
        ({"learning_rate": float("nan")}, "learning_rate must be finite and above 0, got nan"),
        ({"learning_rate": float("inf")}, "learning_rate must be finite and above 0, got inf"),
        ({"learning_rate": -1.0}, "learning_rate must be finite and above 0, got -1.0"),
        ({"negative_slope": 0.0}, "negative_slope must be finite and above 0, got 0.0"),
        ({"weight_decay": float("nan")}, "weight_decay must be finite and at least 0, got nan"),
        ({"seed": 2**40}, "seed must be from"),
        ({"noise": -0.1}, "noise must be finite and at least 0, got -0.1"),
    ],
)
def test_bad_settings_are_named(settings, message):
    with pytest.raises(ValueError, match=message):
        TrainSettings(**settings)


def test_another_optimizer_has_its_own_learning_rate():
    assert default_settings("shapes", "muon") == default_settings("shapes") == SHAPES
    assert default_settings("a folder", "adamw") == replace(REAL, learning_rate=None)
