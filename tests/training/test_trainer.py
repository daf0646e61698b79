"""The trainer: exact resumption, many processes, precision, and what it refuses."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from forks import ended, fork, fork_two
from kills import KilledError, kill_at
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils import parameters_to_vector

from invcap.data.shapes import draw as draw_scene
from invcap.data.shapes import scenes
from invcap.encoders.autoencoder import (
    AutoencoderSettings,
    ConvAutoencoder,
    to_unit_range,
    train_autoencoder,
)
from invcap.training.devices import start_processes
from invcap.training.muon import Muon
from invcap.training.trainer import (
    Batch,
    LossModule,
    Trained,
    TrainerSettings,
    TrainingDivergedError,
    take_step,
    train,
)
from invcap_ext import InvertibleNetwork

SETTINGS = TrainerSettings(
    7, 10, warmup=0.3, decay=0.5, weights={"size": 0.1}, checkpoint_every=2, seed=3
)
DATA = torch.randn(40, 3, 4, 4, generator=torch.Generator().manual_seed(0))


class Network(nn.Module):
    """Convolutions in another memory layout, an invertible network, a buffer, an idle weight."""

    def __init__(self) -> None:
        super().__init__()
        self.convolution = nn.Conv2d(3, 8, 3).to(memory_format=torch.channels_last)
        self.network = InvertibleNetwork(32, 2, negative_slope=0.5)
        self.left_alone = nn.Parameter(torch.ones(5))
        self.calls: Tensor
        self.register_buffer("calls", torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        if self.training:
            self.calls += 1
        return self.network(self.convolution(x).tanh().flatten(1))


def make_network() -> Network:
    torch.manual_seed(0)
    return Network()


def losses(network: Network, batch: Batch) -> dict[str, Tensor]:
    y = network(batch["x"])
    return {"error": F.mse_loss(y[:, :16], batch["target"]), "size": y[:, 16:].square().mean()}


def draw(generator: torch.Generator, part: slice) -> Batch:
    chosen = torch.randint(len(DATA), (SETTINGS.batch_size,), generator=generator)[part]
    noise = torch.randn(SETTINGS.batch_size, 3, 4, 4, generator=generator)[part]
    return {"x": DATA[chosen] + 0.1 * noise, "target": DATA[chosen, 0].flatten(1)}


def muon_and_adamw(network: Network) -> list[torch.optim.Optimizer]:
    factors = [layer.lu for layer in network.network.layers]
    biases = [layer.bias for layer in network.network.layers]
    return [
        Muon([network.convolution.weight, *factors], 0.02),
        torch.optim.AdamW([network.convolution.bias, *biases], 2e-3, betas=(0.9, 0.99)),
    ]


def adamw(network: Network) -> list[torch.optim.Optimizer]:
    groups = [
        {"params": [*network.convolution.parameters()], "lr": 1e-2},
        {"params": [*network.network.parameters()], "weight_decay": 0.1},
    ]
    return [torch.optim.AdamW(groups, 1e-3)]


OPTIMIZERS = {"muon and adamw": muon_and_adamw, "adamw": adamw}


@pytest.fixture(scope="module")
def accelerator() -> Accelerator:
    return Accelerator(cpu=True)


def run(
    path: Path,
    accelerator: Accelerator,
    settings: TrainerSettings = SETTINGS,
    optimizers: Callable[[Network], list[torch.optim.Optimizer]] = muon_and_adamw,
    before_draw: Callable[[], None] = lambda: None,
) -> Trained[Network]:
    def watched_draw(generator: torch.Generator, part: slice) -> Batch:
        before_draw()
        return draw(generator, part)

    network = make_network()
    made = optimizers(network)
    return train(network, losses, watched_draw, made, settings, path, {"data": "a"}, accelerator)


def everything(trained: Trained[Network], path: Path) -> dict[str, bytes]:
    """All that a run ends with, bit for bit."""
    found = {f"module {name}": value for name, value in trained.module.state_dict().items()}
    found |= {f"average {name}": value for name, value in trained.average.state_dict().items()}
    found |= {f"checkpoint {name}": value for name, value in load_file(path).items()}
    history = {name: np.array(values).tobytes() for name, values in trained.history.items()}
    return {name: value.numpy().tobytes() for name, value in found.items()} | history


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
def test_what_optimizers_resume_with_is_laid_out_as_their_weights(
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


@pytest.mark.parametrize("optimizers", OPTIMIZERS.values(), ids=OPTIMIZERS)
def test_a_batch_in_parts_gives_the_weights_of_a_whole_one(accelerator, tmp_path, optimizers):
    settings = replace(SETTINGS, steps=50)
    whole = run(tmp_path / "whole", accelerator, settings, optimizers)
    parts = replace(settings, gradient_accumulation=3)
    found = run(tmp_path / "parts", accelerator, parts, optimizers)
    assert_near(found, whole)


def assert_near(found: Trained, expected: Trained) -> None:
    """Weights within 1e-5 of their norm, losses within 1e-5."""
    for which in ("module", "average"):
        weights = getattr(found, which).state_dict()
        for name, weight in getattr(expected, which).named_parameters():
            assert torch.dist(weights[name], weight) <= 1e-5 * weight.norm(), (which, name)
    for name, values in expected.history.items():
        assert found.history[name] == pytest.approx(values, rel=1e-5), name


FIFTY = replace(SETTINGS, steps=50, average=0.9, checkpoint_every=20)
PIXELS = torch.stack(
    [torch.from_numpy(np.array(draw_scene(scene, 16))) for scene in list(scenes())[::500]]
)


def train_plainly(path: Path, accelerator: Accelerator) -> Trained[ConvAutoencoder]:
    """An autoencoder trained by plain gradient steps, which do not enlarge rounding errors."""
    torch.manual_seed(0)
    model = ConvAutoencoder(latent_channels=2, channels=16)

    def draw_images(generator: torch.Generator, part: slice) -> Batch:
        chosen = torch.randint(len(PIXELS), (9,), generator=generator)[part]
        return {"images": to_unit_range(PIXELS[chosen])}

    def error(model: ConvAutoencoder, batch: Batch) -> dict[str, Tensor]:
        decoded = model.decode(model.encode(batch["images"]).latents).sample
        return {"error": F.mse_loss(decoded, batch["images"])}

    optimizers = [torch.optim.SGD(model.parameters(), 0.5)]
    settings = TrainerSettings(50, 9)
    return train(model, error, draw_images, optimizers, settings, path, {}, accelerator)


def train_by_muon(path: Path, accelerator: Accelerator) -> ConvAutoencoder:
    settings = AutoencoderSettings(steps=50, batch_size=9)
    return train_autoencoder(PIXELS.flatten(1), (16, 16), 2, settings, path, {}, accelerator)


def in_two_processes(folder: Path) -> None:
    accelerator = start_processes("cpu")
    assert accelerator.num_processes == 2
    run(folder / "two", accelerator, FIFTY)
    parts = replace(FIFTY, gradient_accumulation=2)
    run(folder / "two in parts", accelerator, parts, adamw)
    train_plainly(folder / "plain", accelerator)
    train_by_muon(folder / "muon", accelerator)
    with pytest.raises(KilledError):
        run(folder / "begun", accelerator, FIFTY, before_draw=kill_at(30))
    with pytest.raises(ValueError, match="batch_size must be at least 12, processes x"):
        run(folder / "none", accelerator, replace(FIFTY, gradient_accumulation=6))
    with pytest.raises(TrainingDivergedError, match="the loss is nan at step 2"):
        diverge(folder / "diverged", accelerator, 2)


@pytest.fixture(scope="module")
def two_processes(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("two")
    codes = fork_two(lambda: in_two_processes(folder), folder / "log")
    assert codes == [0, 0], (folder / "log").read_text()
    return folder


def test_two_processes_give_the_weights_of_one(two_processes, accelerator, tmp_path):
    found = run(two_processes / "two", accelerator, FIFTY, before_draw=kill_at(1))
    assert_near(found, run(tmp_path / "one", accelerator, FIFTY))
    parts = replace(FIFTY, gradient_accumulation=2)
    found = run(two_processes / "two in parts", accelerator, parts, adamw, kill_at(1))
    assert_near(found, run(tmp_path / "adamw", accelerator, FIFTY, adamw))


def test_one_process_resumes_what_two_began(two_processes, accelerator, tmp_path):
    kill_later = kill_at(31)
    resumed = run(two_processes / "begun", accelerator, FIFTY, before_draw=kill_later)
    assert_near(resumed, run(tmp_path / "one", accelerator, FIFTY))
    with pytest.raises(KilledError):
        kill_later()


def test_two_processes_give_the_autoencoder_of_one(two_processes, accelerator, tmp_path):
    found, one = (
        train_plainly(folder / "plain", accelerator) for folder in (two_processes, tmp_path)
    )
    two_vector, vector = (parameters_to_vector(t.module.parameters()) for t in (found, one))
    assert torch.dist(two_vector, vector) <= 1e-6 * vector.norm()
    torch.testing.assert_close(
        dict(found.module.named_buffers()), dict(one.module.named_buffers()), rtol=1e-4, atol=1e-6
    )
    assert one.history["error"][-1] < 0.5 * one.history["error"][0]


def test_two_processes_train_the_autoencoder_as_well_as_one(two_processes, accelerator, tmp_path):
    # Muon enlarges the smallest singular values of a gradient some 500 times, rounding with them.
    images = to_unit_range(PIXELS)
    decoded = []
    for folder in (two_processes, tmp_path):
        model = train_by_muon(folder / "muon", accelerator)
        with torch.no_grad():
            decoded.append(model.decode(model.encode(images).latents).sample)
    two, one = decoded
    assert torch.dist(two, one) < 0.01 * torch.dist(one, images)


def diverge(path: Path, accelerator: Accelerator, at: int) -> None:
    """Trains with a loss that is not a number from a step on."""

    def bad(network: Network, batch: Batch) -> dict[str, Tensor]:
        return {"error": network(batch["x"]).mean() * batch["factor"]}

    steps = iter(range(1, 100))

    def draw_bad(generator: torch.Generator, part: slice) -> Batch:
        factor = torch.tensor(torch.nan if next(steps) >= at else 1.0)
        return draw(generator, part) | {"factor": factor}

    network = make_network()
    train(network, bad, draw_bad, adamw(network), SETTINGS, path, {}, accelerator)


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


def test_parts_may_be_others_when_a_run_resumes(accelerator, tmp_path):
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
def test_a_step_forward_and_backward_takes_nothing_from_the_device(
    accelerator, monkeypatch, optimizers
):
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


def in_bfloat16(folder: Path) -> None:
    accelerator = start_processes("cpu", "bfloat16", "tensorboard", folder)
    accelerator.init_trackers("test")
    dtypes = set()

    def watched(network: Network, batch: Batch) -> dict[str, Tensor]:
        network.network.layers[0].register_forward_hook(
            lambda layer, inputs, output: dtypes.add((inputs[0].dtype, output.dtype))
        )
        return losses(network, batch)

    network = make_network()
    made = muon_and_adamw(network)
    trained = train(network, watched, draw, made, FIFTY, folder / "a", {}, accelerator)
    accelerator.end_training()
    assert dtypes == {(torch.bfloat16, torch.bfloat16)}
    weights = [*trained.module.parameters(), *trained.average.parameters()]
    assert {weight.dtype for weight in weights} == {torch.float32}
    error = trained.history["error"]
    assert sum(error[-5:]) < 0.8 * sum(error[:5])


def test_bfloat16_reaches_operators_and_leaves_weights_in_float32_and_losses_are_logged(tmp_path):
    code = ended(fork(lambda: in_bfloat16(tmp_path), tmp_path / "log"))
    assert code == 0, (tmp_path / "log").read_text()
    assert [*(tmp_path / "tensorboard").rglob("events*")]


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
