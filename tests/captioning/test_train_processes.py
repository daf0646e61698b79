"""Terms that compare the rows of a batch, in two processes."""

from pathlib import Path

import pytest
import torch
from forks import fork, fork_two

from invcap.captioning.pairs import Pairs
from invcap.captioning.scaler import Scaler
from invcap.captioning.train import TrainSettings, train_network
from invcap.training.devices import start_processes

FEATURES, COORDINATES = 24, 16


def train_and_save(output: Path) -> None:
    accelerator = start_processes("cpu")
    x = torch.randn(40, FEATURES, generator=torch.Generator().manual_seed(0))
    every = torch.arange(40)
    pairs = Pairs([""] * 40, x, [""] * 40, x[:, :COORDINATES].square(), every, every)
    scalers = (Scaler(torch.zeros(n), torch.ones(n)) for n in (FEATURES, COORDINATES))
    settings = TrainSettings(contrastive=0.5, depth=2, batch_size=16, steps=10)
    trained = train_network(pairs, *scalers, settings, output, accelerator)
    if accelerator.is_main_process:
        torch.save(trained.module.state_dict(), output / "weights.pt")


@pytest.mark.slow
def test_two_processes_compare_the_rows_of_the_whole_batch_as_one_does(tmp_path):
    one, two, log = tmp_path / "one", tmp_path / "two", tmp_path / "log"
    assert fork(train_and_save, one, log=log) == 0, log.read_text()
    assert fork_two(train_and_save, two, log=log) == [0, 0], log.read_text()
    weights, others = (torch.load(folder / "weights.pt") for folder in (one, two))
    for name, weight in weights.items():
        assert torch.dist(weight, others[name]) <= 1e-5 * weight.norm(), name
