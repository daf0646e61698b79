"""Device, precision and processes of training and inversions, and where losses are logged."""

from __future__ import annotations

import importlib.util
import os
from datetime import timedelta
from pathlib import Path

import torch
import torch.distributed.nn.functional as differentiable
from accelerate import Accelerator, InitProcessGroupKwargs
from accelerate.utils import ProjectConfiguration
from torch import Tensor, distributed

PRECISIONS = {"float32": "no", "bfloat16": "bf16", "float16": "fp16"}
TRACKERS = ("tensorboard", "wandb", "none")
WAITS = timedelta(hours=24)


def resolve_device(name: str = "auto") -> torch.device:
    """The device that a name stands for: `auto`, `cpu`, `cuda` or `cuda:N`.

    Raises:
        ValueError: this machine has no such device.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    kind, _, number = name.partition(":")
    if kind not in ("cpu", "cuda") or (number and not (kind == "cuda" and number.isdecimal())):
        raise ValueError(f"device must be auto, cpu, cuda or cuda:N, got {name!r}")
    devices = torch.cuda.device_count()
    if kind == "cuda" and int(number or 0) >= devices:
        raise ValueError(f"device {name!r}: this machine has {devices} CUDA devices")
    return torch.device(kind, int(number)) if number else torch.device(kind)


def start_processes(
    device: str = "auto",
    precision: str = "float32",
    report_to: str = "none",
    output: Path | None = None,
) -> Accelerator:
    """Joins the processes that `torchrun` or `accelerate launch` started, or runs alone.

    Args:
        device: see `resolve_device`; among several processes, each takes its own CUDA device.
        precision: of training: `float32`, or `bfloat16` or `float16` by autocast.
        report_to: `tensorboard`, `wandb` or `none`.
        output: folder of the logs.

    Raises:
        ValueError: an argument is unknown, or not available on this machine.
    """
    where = resolve_device(device)
    if precision not in PRECISIONS:
        raise ValueError(f"precision must be one of {', '.join(PRECISIONS)}, got {precision!r}")
    if precision == "float16" and where.type != "cuda":
        raise ValueError(f"precision float16 needs a CUDA device, got {where}; bfloat16 does not")
    if report_to not in TRACKERS:
        raise ValueError(f"report_to must be one of {', '.join(TRACKERS)}, got {report_to!r}")
    if report_to == "wandb" and importlib.util.find_spec("wandb") is None:
        raise ValueError("report_to wandb: the package wandb is not installed")
    if where.index is not None:
        if int(os.environ.get("WORLD_SIZE", 1)) > 1:
            raise ValueError(
                f"device must be auto, cpu or cuda for several processes, got {device}"
            )
        os.environ["ACCELERATE_TORCH_DEVICE"] = str(where)
    return Accelerator(
        cpu=where.type == "cpu",
        mixed_precision=PRECISIONS[precision],
        log_with=None if report_to == "none" else report_to,
        project_config=ProjectConfiguration(str(output), str(output / "tensorboard"))
        if output
        else None,
        kwargs_handlers=[InitProcessGroupKwargs(timeout=WAITS)],
    )


def process_index() -> int:
    """The number of this process among those that work together."""
    return distributed.get_rank() if distributed.is_initialized() else 0


def from_all_processes(rows: Tensor) -> Tensor:
    """The rows of all processes, as many of each, in their order; gradients flow to all."""
    if not distributed.is_initialized():
        return rows
    return torch.cat(differentiable.all_gather(rows.contiguous()))
