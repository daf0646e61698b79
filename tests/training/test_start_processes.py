"""Which device, precision and log a run is given, and which are refused, each in one sentence."""

import pytest
import torch

from invcap.training.devices import resolve_device, start_processes


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"device": "tpu"}, "device must be auto, cpu, cuda or cuda:N, got 'tpu'"),
        ({"device": "cpu:1"}, "device must be auto, cpu, cuda or cuda:N, got 'cpu:1'"),
        ({"device": "cuda:x"}, "device must be auto, cpu, cuda or cuda:N, got 'cuda:x'"),
        ({"device": "cuda"}, "device 'cuda': this machine has 0 CUDA devices"),
        ({"device": "cuda:1"}, "device 'cuda:1': this machine has 0 CUDA devices"),
        ({"precision": "float64"}, "precision must be one of float32, bfloat16, float16, got"),
        ({"device": "cpu", "precision": "float16"}, "precision float16 needs a CUDA device, got"),
        ({"report_to": "mlflow"}, "report_to must be one of tensorboard, wandb, none, got"),
        ({"report_to": "wandb"}, "report_to wandb: the package wandb is not installed"),
    ],
)
def test_a_device_or_precision_that_is_not_available_is_named(monkeypatch, arguments, message):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ValueError, match=message) as raised:
        start_processes(**arguments)
    assert "\n" not in str(raised.value)


def test_a_numbered_device_is_for_one_process(monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setenv("WORLD_SIZE", "2")
    message = "device must be auto, cpu or cuda for several processes, got cuda:1"
    with pytest.raises(ValueError, match=message):
        start_processes("cuda:1")


def test_auto_chooses_an_available_device(monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    for there, expected in ((True, "cuda"), (False, "cpu")):
        monkeypatch.setattr(torch.cuda, "is_available", lambda there=there: there)
        assert resolve_device() == torch.device(expected)
    assert resolve_device("cuda:1") == torch.device("cuda", 1)
    assert resolve_device("cpu") == torch.device("cpu")
