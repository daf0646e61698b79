from dataclasses import replace
from pathlib import Path

import pytest
import torch

from invcap.captioning.pairs import Pairs
from invcap.captioning.scaler import Scaler
from invcap.captioning.train import (
    CHECKPOINT,
    CaptionSampler,
    TrainingModule,
    TrainSettings,
    make_optimizers,
    train_network,
)
from invcap.training.trainer import LossModule, TrainerSettings, TrainingDivergedError, take_step

SETTINGS = TrainSettings(depth=3, batch_size=16, steps=12, checkpoint_every=4, seed=3)
OBJECTIVES = ("bidirectional", "caption", "likelihood")
FEATURES = 24


@pytest.fixture
def run(accelerator):
    def train(output: Path, settings: TrainSettings = SETTINGS, data: str = ""):
        generator = torch.Generator().manual_seed(0)
        x = torch.randn(40, FEATURES, generator=generator)
        e = x.roll(1, dims=1) + 0.3 * x.square()
        every = torch.arange(40)
        pairs = Pairs([""] * 40, x, [""] * 40, e, every, every, identity=data)
        same = Scaler(torch.zeros(FEATURES), torch.ones(FEATURES))
        return train_network(pairs, same, same, settings, output, accelerator)

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


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_training_lowers_its_loss(run, tmp_path, objective):
    settings = replace(SETTINGS, objective=objective, steps=150, noise=0.05)
    total = torch.tensor(list(run(tmp_path, settings).history.values())).sum(0)
    assert total[-10:].mean() < total[:10].mean() - 0.3


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_a_step_forward_and_backward_leaves_nothing_on_the_cpu(accelerator, objective):
    settings = replace(SETTINGS, objective=objective, noise=0.1)
    module = TrainingModule(FEATURES, settings).to("meta")
    optimizers = make_optimizers(module, settings)
    batch = {name: torch.empty(16, FEATURES, device="meta") for name in ("x", "e")}
    forward = LossModule(module, lambda m, b: m.losses(objective, b["x"], b["e"]))
    losses = take_step(forward, [batch], [1.0], optimizers, TrainerSettings(1, 16), accelerator)
    assert all(loss.device.type == "meta" for loss in losses.values())


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
    sampler = CaptionSampler(image, torch.tensor([5, 1, 2, 0, 4, 3]))
    drawn = sampler.draw(torch.tensor([0] * 200 + [2] * 200), torch.Generator())
    assert set(drawn[:200].tolist()) == {5, 1, 2}
    assert set(drawn[200:].tolist()) == {4, 3}


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"objective": "both"}, "objective must be one of"),
        ({"optimizer": "sgd"}, "optimizer must be one of"),
        ({"steps": 0}, "steps must be at least 1, got 0"),
        ({"objective": "likelihood"}, "noise must be above 0"),
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
