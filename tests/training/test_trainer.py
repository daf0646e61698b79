"""The trainer: exact resumption, parts of batches, rates, averages, and what it refuses."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from kills import KilledError, kill_at
from safetensors.torch import load_file
from small_network import (
    FIFTY,
    OPTIMIZERS,
    SETTINGS,
    Network,
    adamw,
    assert_near,
    diverge,
    draw,
    everything,
    losses,
    make_network,
    run,
)
from torch import Tensor, nn

from invcap.training.trainer import (
    Batch,
    LossModule,
    TrainerSettings,
    TrainingDivergedError,
    take_step,
    train,
)


@pytest.fixture(scope="module")
def accelerator() -> Accelerator:
    return Accelerator(cpu=True)


@pytest.mark.slow
@pytest.mark.parametrize("accumulation", [1, 3])
@pytest.mark.parametrize("average", [0.0, 0.9])
@pytest.mark.parametrize("optimizers", OPTIMIZERS.values(), ids=OPTIMIZERS)
def test_a_run_killed_at_any_draw_resumes_to_the_same_bytes(
    accelerator, tmp_path, optimizers, average, accumulation
):
    settings = replace(SETTINGS, steps=5, average=average, gradient_accumulation=accumulation)
    whole = run(tmp_path / "whole", accelerator, settings, optimizers)
    expected = everything(whole, tmp_path / "whole")
    for call in range(1, settings.steps * accumulation + 1):
        path = tmp_path / f"killed-{call}"
        with pytest.raises(KilledError):
            run(path, accelerator, settings, optimizers, kill_at(call))
        resumed = run(path, accelerator, settings, optimizers)
        assert everything(resumed, path) == expected, call
    assert len(whole.history["error"]) == settings.steps


def test_a_run_killed_again_and_again_resumes_to_the_same_bytes(accelerator, tmp_path):
    settings = replace(SETTINGS, average=0.9, checkpoint_every=1)
    expected = everything(run(tmp_path / "whole", accelerator, settings), tmp_path / "whole")
    for _ in range(settings.steps - 1):
        with pytest.raises(KilledError):
            run(tmp_path / "killed", accelerator, settings, before_draw=kill_at(2))
    resumed = run(tmp_path / "killed", accelerator, settings, before_draw=kill_at(2))
    assert everything(resumed, tmp_path / "killed") == expected


@pytest.mark.parametrize("optimizers", OPTIMIZERS.values(), ids=OPTIMIZERS)
def test_resumed_optimizer_states_have_the_memory_format_of_their_weights(
    accelerator, tmp_path, optimizers
):
    run(tmp_path / "a", accelerator, optimizers=optimizers)
    network = make_network()
    made = optimizers(network)
    train(network, losses, draw, made, SETTINGS, tmp_path / "a", {"data": "a"}, accelerator)
    weight = network.convolution.weight
    found = [value for value in made[0].state[weight].values() if value.shape == weight.shape]
    assert found and {value.stride() for value in found} == {weight.stride()}
    assert weight.stride() != weight.contiguous().stride()


def test_a_finished_run_is_read_back_without_a_step(accelerator, tmp_path):
    first = everything(run(tmp_path / "a", accelerator), tmp_path / "a")
    again = run(tmp_path / "a", accelerator, before_draw=kill_at(1))
    assert everything(again, tmp_path / "a") == first


@pytest.mark.slow
@pytest.mark.parametrize("optimizers", OPTIMIZERS.values(), ids=OPTIMIZERS)
def test_a_batch_in_parts_gives_the_weights_of_a_whole_one(accelerator, tmp_path, optimizers):
    settings = replace(SETTINGS, steps=50)
    whole = run(tmp_path / "whole", accelerator, settings, optimizers)
    parts = replace(settings, gradient_accumulation=3)
    found = run(tmp_path / "parts", accelerator, parts, optimizers)
    assert_near(found, whole)


def test_a_loss_that_is_not_finite_stops_and_keeps_the_last_good_checkpoint(accelerator, tmp_path):
    message = "training: the loss is nan at step 6; .* the last good checkpoint is .*/a"
    with pytest.raises(TrainingDivergedError, match=message):
        diverge(tmp_path / "a", accelerator, 6)
    assert load_file(tmp_path / "a")["history.error"].isfinite().sum() == 4
    with pytest.raises(TrainingDivergedError, match="the last good checkpoint is none"):
        diverge(tmp_path / "b", accelerator, 2)
    assert not (tmp_path / "b").exists()


def test_a_weight_that_is_not_finite_is_in_no_checkpoint(accelerator, tmp_path):
    def falls_off(network: Network, batch: Batch) -> dict[str, Tensor]:
        return {"error": network.convolution.bias.square().sum().sqrt()}

    network = make_network()
    with torch.no_grad():
        network.convolution.bias.zero_()
    settings = replace(SETTINGS, checkpoint_every=1)
    with pytest.raises(TrainingDivergedError, match="a weight is not finite after step 1"):
        train(network, falls_off, draw, adamw(network), settings, tmp_path / "a", {}, accelerator)
    assert not (tmp_path / "a").exists()


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"steps": 8}, "steps differs: the file has 7, this run 8"),
        ({"average": 0.5}, "average differs: the file has 0.0, this run 0.5"),
        ({"weights": {"size": 0.2}}, "size differs: the file has 0.1, this run 0.2"),
    ],
)
def test_the_checkpoint_of_other_settings_is_refused(accelerator, tmp_path, change, named):
    run(tmp_path / "a", accelerator)
    with pytest.raises(ValueError, match=f"cannot resume: {named}"):
        run(tmp_path / "a", accelerator, replace(SETTINGS, **change))


def test_a_checkpoint_of_other_data_or_none_is_refused(accelerator, tmp_path):
    run(tmp_path / "a", accelerator)
    network = make_network()
    others = (adamw(network), SETTINGS, tmp_path / "a", {"data": "b"}, accelerator)
    message = "a: cannot resume: data differs: the file has a, this run b"
    with pytest.raises(ValueError, match=message):
        train(network, losses, draw, *others)
    (tmp_path / "b").write_text("nothing")
    with pytest.raises(ValueError, match="b: not a safetensors file"):
        run(tmp_path / "b", accelerator)


def test_the_number_of_parts_may_change_when_a_run_resumes(accelerator, tmp_path):
    with pytest.raises(KilledError):
        run(tmp_path / "a", accelerator, before_draw=kill_at(4))
    resumed = run(tmp_path / "a", accelerator, replace(SETTINGS, gradient_accumulation=2))
    assert_near(resumed, run(tmp_path / "b", accelerator))


def rates(settings: TrainerSettings, path: Path, accelerator: Accelerator) -> list[float]:
    """The learning rate of each step, as far as a weight moved whose gradient is 1."""
    line = nn.Linear(1, 1, bias=False)
    positions = []

    def loss(line: nn.Linear, batch: Batch) -> dict[str, Tensor]:
        positions.append(line.weight.item())
        return {"weight": -line.weight.sum()}

    made = [torch.optim.SGD(line.parameters(), 1.0)]
    train(line, loss, lambda generator, part: {}, made, settings, path, {}, accelerator)
    return np.diff([*positions, line.weight.item()]).tolist()


def test_rates_rise_stay_and_fall(accelerator, tmp_path):
    settings = TrainerSettings(10, 1, warmup=0.2, decay=0.5, max_norm=torch.inf)
    expected = [0.5, 1, 1, 1, 1, 1, 0.8, 0.6, 0.4, 0.2]
    assert rates(settings, tmp_path / "a", accelerator) == pytest.approx(expected, abs=1e-5)
    settings = replace(settings, warmup=0, decay=0)
    assert rates(settings, tmp_path / "b", accelerator) == pytest.approx([1] * 10, abs=1e-5)


def test_gradients_are_clipped_by_their_common_norm(accelerator, tmp_path):
    settings = TrainerSettings(1, 1, warmup=0, decay=0, max_norm=0.1)
    assert rates(settings, tmp_path / "a", accelerator) == pytest.approx([0.1], abs=1e-5)


def test_training_lowers_the_loss_and_leaves_what_no_optimizer_holds(accelerator, tmp_path):
    trained = run(tmp_path / "a", accelerator, FIFTY)
    error = trained.history["error"]
    assert sum(error[-5:]) < 0.8 * sum(error[:5])
    assert torch.equal(trained.module.left_alone, torch.ones(5))
    assert not trained.module.left_alone.requires_grad
    assert not trained.module.training and not trained.average.training


def test_the_average_follows_the_weights_faster_at_first(accelerator, tmp_path):
    seen = []

    def watched(network: Network, batch: Batch) -> dict[str, Tensor]:
        seen.append(network.convolution.weight.detach().clone())
        return losses(network, batch)

    settings = replace(FIFTY, average=0.5)
    network = make_network()
    trained = train(
        network, watched, draw, adamw(network), settings, tmp_path / "a", {}, accelerator
    )
    average = seen[0]
    for number, weight in enumerate([*seen[1:], network.convolution.weight], 1):
        decay = min(0.5, number / (number + 10))
        average = decay * average + (1 - decay) * weight.detach()
    torch.testing.assert_close(trained.average.convolution.weight.detach(), average)
    assert torch.dist(average, network.convolution.weight) > 1e-3
    assert trained.average.calls == 50


@pytest.mark.parametrize("optimizers", OPTIMIZERS.values(), ids=OPTIMIZERS)
def test_a_training_step_reads_nothing_back_from_the_device(accelerator, monkeypatch, optimizers):
    network = make_network().to("meta")
    batches = [
        {
            "x": torch.empty(5, 3, 4, 4, device="meta"),
            "target": torch.empty(5, 16, device="meta"),
        }
        for _ in range(2)
    ]
    made = optimizers(network)
    taken = []

    def watch(name: str) -> None:
        real = getattr(Tensor, name)

        def watched(self: Tensor, *arguments: object) -> object:
            if self.device.type == "meta":
                taken.append(name)
            return real(self, *arguments)

        monkeypatch.setattr(Tensor, name, watched)

    for name in ("item", "tolist", "cpu", "numpy", "__bool__", "__float__"):
        watch(name)
    for _ in range(2):
        found = take_step(
            LossModule(network, losses), batches, [0.5, 0.5], made, SETTINGS, accelerator
        )
    monkeypatch.undo()
    assert not taken
    assert {term.device.type for term in found.values()} == {"meta"}


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"steps": 0}, "steps must be at least 1, got 0"),
        ({"gradient_accumulation": 0}, "gradient_accumulation must be at least 1, got 0"),
        ({"warmup": 1.5}, "warmup must be from 0 to 1, got 1.5"),
        ({"decay": torch.nan}, "decay must be from 0 to 1, got nan"),
        ({"average": 1.0}, "average must be from 0 to below 1, got 1.0"),
        ({"max_norm": 0.0}, "max_norm must be above 0, got 0.0"),
        ({"seed": 2**40}, r"seed must be from -2\^31 to below 2\^31, got 1099511627776"),
    ],
)
def test_bad_settings_are_named(settings, message):
    with pytest.raises(ValueError, match=message):
        replace(SETTINGS, **settings)


def test_more_parts_than_examples_are_refused(accelerator, tmp_path):
    settings = replace(SETTINGS, gradient_accumulation=11)
    message = "batch_size must be at least 11, processes x gradient_accumulation, got 10"
    with pytest.raises(ValueError, match=message):
        run(tmp_path / "a", accelerator, settings)
