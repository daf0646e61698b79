from dataclasses import replace
from pathlib import Path

import pytest
import torch

from invcap.captioning.train import (
    CHECKPOINT,
    CaptionsOf,
    TrainingDivergedError,
    TrainSettings,
    train_network,
)

SETTINGS = TrainSettings(depth=3, batch_size=16, steps=12, checkpoint_every=4, seed=3)
FEATURES = 24


def run(output: Path, settings: TrainSettings = SETTINGS, resume: bool = False, **options):
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(40, FEATURES, generator=generator)
    e = x.roll(1, dims=1) + 0.3 * x.square()
    captions_of = CaptionsOf(torch.arange(40), torch.arange(40))
    return train_network(x, e, captions_of, settings, output, resume, **options)


class KilledError(Exception):
    pass


def kill_at(step: int):
    def on_step(done: int, losses: dict[str, float]) -> None:
        if done == step:
            raise KilledError

    return on_step


@pytest.mark.parametrize("optimizer", ["muon", "adamw"])
@pytest.mark.parametrize("objective", ["bidirectional", "caption", "likelihood"])
@pytest.mark.parametrize("killed_at", [2, 7])
def test_a_killed_and_resumed_run_gives_the_same_weights(tmp_path, objective, optimizer, killed_at):
    settings = replace(SETTINGS, objective=objective, optimizer=optimizer, noise=0.1)
    whole, history = run(tmp_path / "whole", settings)
    with pytest.raises(KilledError):
        run(tmp_path / "killed", settings, on_step=kill_at(killed_at))
    resumed, resumed_history = run(tmp_path / "killed", settings, resume=True)
    for name, value in whole.state_dict().items():
        assert torch.equal(value, resumed.state_dict()[name]), name
    assert history.history == resumed_history.history


@pytest.mark.parametrize("objective", ["bidirectional", "caption", "likelihood"])
def test_training_lowers_its_loss(tmp_path, objective):
    settings = replace(SETTINGS, objective=objective, steps=150, noise=0.05)
    _, progress = run(tmp_path, settings)
    total = torch.tensor(list(progress.history.values())).sum(0)
    assert total[-10:].mean() < total[:10].mean() - 0.3


def test_another_seed_gives_other_weights(tmp_path):
    one, _ = run(tmp_path / "one")
    other, _ = run(tmp_path / "other", replace(SETTINGS, seed=4))
    assert not torch.equal(one.network.layers[0].lu, other.network.layers[0].lu)


@pytest.mark.parametrize(
    ("change", "data"), [({"depth": 4}, "same"), ({"seed": 9}, "same"), ({}, "other")]
)
def test_resuming_with_other_settings_or_data_is_refused(tmp_path, change, data):
    run(tmp_path, data_fingerprint="same")
    with pytest.raises(ValueError, match=r"cannot go on with another (settings|data)"):
        run(tmp_path, replace(SETTINGS, **change), resume=True, data_fingerprint=data)


def test_a_loss_that_is_not_finite_stops_and_keeps_the_last_good_checkpoint(tmp_path):
    run(tmp_path, replace(SETTINGS, steps=4))
    before = (tmp_path / CHECKPOINT).read_bytes()
    with pytest.raises(TrainingDivergedError, match=r"the loss is (nan|inf) at step .*checkpoint"):
        run(tmp_path, replace(SETTINGS, learning_rate=1e12, optimizer="adamw"))
    assert (tmp_path / CHECKPOINT).read_bytes() == before


def test_every_caption_of_a_picture_is_drawn_and_none_of_another():
    picture = torch.tensor([0, 0, 0, 1, 2, 2])
    captions_of = CaptionsOf(picture, torch.tensor([5, 1, 2, 0, 4, 3]))
    drawn = captions_of.draw(torch.tensor([0] * 200 + [2] * 200), torch.Generator())
    assert set(drawn[:200].tolist()) == {5, 1, 2}
    assert set(drawn[200:].tolist()) == {4, 3}


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"objective": "both"}, "objective must be one of"),
        ({"optimizer": "sgd"}, "optimizer must be one of"),
        ({"steps": 0}, "steps must be at least 1, got 0"),
        ({"objective": "likelihood"}, "noise must be above 0"),
    ],
)
def test_bad_settings_are_named(settings, message):
    with pytest.raises(ValueError, match=message):
        TrainSettings(**settings)
