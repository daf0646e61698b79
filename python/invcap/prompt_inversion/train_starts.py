"""`invcap train-starts`: learns a model's amortised start, axes and meta start."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from accelerate import Accelerator
from torch import Tensor, nn
from tqdm import tqdm

from invcap.data.encode import EncodedImages, encode_images
from invcap.data.settings import DataSettings, load_data
from invcap.data.shards import ChosenRows, Rows, ShardRows, numbers, write_shards
from invcap.diffusion.conditioning import Conditioning
from invcap.diffusion.model import FrozenTextToImage, few
from invcap.encoders.autoencoder import to_unit_range
from invcap.files import read_tensors, write_tensors
from invcap.hashing import check_identity, digest, fingerprint
from invcap.prompt_inversion.amortised import AmortisedStart
from invcap.prompt_inversion.axes import FILE, learn_axes, save_axes
from invcap.prompt_inversion.embeddings import save_conditioning
from invcap.prompt_inversion.meta import MetaSettings, reptile
from invcap.prompt_inversion.train_amortised import AmortisedSettings, train_amortised
from invcap.training.trainer import check_batch_size

logger = logging.getLogger(__name__)
FILES = ("amortised.safetensors", FILE, "meta.safetensors")
PIXELS_AT_ONCE = 2**20
BASIS_OF = 2048
AXES_OF = 256
META_START = "a room"


def train_starts(
    model: FrozenTextToImage,
    data: DataSettings,
    amortised: AmortisedSettings,
    meta: MetaSettings,
    output: Path,
    work: Path,
    accelerator: Accelerator,
) -> list[Path]:
    """Learns starts from training images and writes them; a killed run resumes to the same starts.

    Args:
        model: on the accelerator's device.
        data: the images and captions; held-out ones are not used.
        amortised, meta: how the two starts are learned.
        output: folder for the starts.
        work: folder of encoded images and checkpoints, which runs of other models, data or settings
            may share.
        accelerator: the device, the precision and the processes.

    Returns:
        The files.

    Raises:
        TrainingDivergedError: a loss is not finite.
        ValueError: an argument or the data cannot be used, or `output` holds starts of another run.
    """
    model.check_size(data.size)
    check_batch_size(amortised.batch_size, amortised.gradient_accumulation, accelerator)
    key = model_key(model)
    run = work / f"starts-{digest(key, json.dumps(_settings(data, amortised, meta)))}"
    if output.exists() and not output.is_dir():
        raise ValueError(f"{output}: expected a folder for the starts, got a file")
    if not run.exists() and any((output / name).exists() for name in FILES):
        raise ValueError(f"{output}: holds starts already; give another folder")
    images, shape = encode_latents(model, data, key, work, accelerator)
    chosen, captions = captioned(images, model, accelerator)
    if len(set(captions)) < 2:
        raise ValueError(
            f"{data.data}: expected captions that differ, got {set(captions) or 'none'}"
        )
    rows = ChosenRows(images.rows(), chosen * images.variants)
    identity = {"model": key, "data": images.identity}
    return learn_starts(
        model, rows, shape, captions, amortised, meta, identity, output, run, accelerator
    )


def learn_starts(
    model: FrozenTextToImage,
    latents: Rows,
    shape: tuple[int, int, int],
    captions: Sequence[str],
    amortised: AmortisedSettings,
    meta: MetaSettings,
    identity: Mapping[str, Any],
    output: Path,
    work: Path,
    accelerator: Accelerator,
) -> list[Path]:
    """Learns starts from the latents and captions of N images; see `train_starts`.

    Args:
        latents: (N, C h w).
        shape: (C, h, w).
        captions: one for each image.
        identity: identity of model and data; checkpoints of others are refused.
        work: folder of this run's checkpoints.
    """
    start = untrained_start(
        model, latents, shape, captions, amortised.seed, identity, work, accelerator
    )
    codes = caption_codes(model, start, captions, work / "codes", accelerator)
    start = train_amortised(model, start, latents, codes, amortised, identity, work, accelerator)
    files = [output / name for name in FILES]
    if accelerator.is_main_process:
        few = latents[_spread(len(latents), AXES_OF)].view(-1, *shape).to(model.device)
        with torch.no_grad():
            begun = model.conditioning_of(start(few))
        axes = learn_axes(model, few, begun, amortised.seed)
        prompt = learn_meta(model, latents, shape, meta, work)
        start.save(files[0], model)
        save_axes(output, axes, model)
        save_conditioning(files[2], prompt, model)
    accelerator.wait_for_everyone()
    return files


def encode_latents(
    model: FrozenTextToImage, data: DataSettings, key: str, cache: Path, accelerator: Accelerator
) -> tuple[EncodedImages, tuple[int, int, int]]:
    """Encodes images to latents on disk, C h w numbers each; returns them and (C, h, w).

    Args:
        model: the model.
        data: the images.
        key: a hash of the model, see `model_key`.
        cache: folder for the latents.
    """
    at_once = max(1, PIXELS_AT_ONCE // (data.size[0] * data.size[1]))

    @torch.no_grad()
    def encode(pixels: np.ndarray) -> np.ndarray:
        batches = to_unit_range(pixels).split(at_once)
        return torch.cat([model.encode_pixels(b.to(model.device)).cpu() for b in batches]).numpy()

    channels, height, width = encode(np.zeros((1, *data.size, 3), np.uint8)).shape[1:]
    images = encode_images(
        load_data(data),
        data,
        lambda pixels: encode(pixels).reshape(len(pixels), -1),
        channels * height * width,
        key,
        cache,
        accelerator,
        name="latents",
    )
    return images, (channels, height, width)


def captioned(
    images: EncodedImages, model: FrozenTextToImage, accelerator: Accelerator
) -> tuple[Tensor, list[str]]:
    """Training images that have a caption the model can read, (N,), and the first one of each."""
    chosen, captions, refused = [], [], []
    for number in np.flatnonzero(~images.held_out).tolist():
        for caption in images.captions[number]:
            try:
                model.check_prompt(caption)
            except ValueError as error:
                refused.append(str(error))
                continue
            chosen.append(number)
            captions.append(caption)
            break
    if refused and accelerator.is_main_process:
        logger.warning("skipped %d captions, such as: %s", len(refused), refused[0])
    return torch.tensor(chosen, dtype=torch.int64), captions


def untrained_start(
    model: FrozenTextToImage,
    latents: Rows,
    shape: tuple[int, int, int],
    captions: Sequence[str],
    seed: int,
    identity: Mapping[str, Any],
    work: Path,
    accelerator: Accelerator,
) -> AmortisedStart:
    """The untrained amortised start, which the main process computes for all processes."""
    path = work / "untrained.safetensors"
    if accelerator.is_main_process and not path.exists():
        chosen = _spread(len(latents), BASIS_OF)
        hidden = encode(model, [captions[number] for number in chosen.tolist()]).cpu()
        start = AmortisedStart.of(latents[chosen].view(-1, *shape), hidden, seed)
        write_tensors(path, start.state_dict(), identity=json.dumps(identity))
    accelerator.wait_for_everyone()
    tensors, metadata = read_tensors(path)
    check_identity(path, json.loads(metadata["identity"]), identity)
    start = AmortisedStart(shape, tensors["mean"].shape, len(tensors["basis"]))
    start.load_state_dict(tensors)
    return start.to(model.device)


@torch.no_grad()
def encode(model: FrozenTextToImage, captions: Sequence[str]) -> Tensor:
    """The tensors of captions that inversions optimize, (N, ...)."""
    return model.encode_prompts(captions).tensors[model.optimized]


def caption_codes(
    model: FrozenTextToImage,
    start: AmortisedStart,
    captions: Sequence[str],
    folder: Path,
    accelerator: Accelerator,
) -> ShardRows:
    """The codes of captions, (N, K), on disk; eight captions' tensors are in memory at a time."""

    @torch.no_grad()
    def table(part: Sequence[str]) -> pa.Table:
        codes = [start.code_of(encode(model, some)).cpu() for some in few(part)]
        return pa.table({"codes": numbers(torch.cat(codes).numpy())})

    return ShardRows(write_shards(captions, table, folder, accelerator, "captions"), "codes")


def learn_meta(
    model: FrozenTextToImage,
    latents: Rows,
    shape: tuple[int, int, int],
    settings: MetaSettings,
    work: Path,
) -> Conditioning:
    """The meta start, with a checkpoint after each round."""
    path = work / "meta.safetensors"
    start, done = model.encode_prompts([META_START]), 0
    if path.exists():
        tensors, metadata = read_tensors(path)
        start, done = Conditioning(tensors).to(model.device), int(metadata["done"])
    with tqdm(total=settings.rounds, initial=done, desc="meta start") as bar:

        def on_round(done: int, start: Conditioning) -> None:
            bar.update()
            write_tensors(path, start.tensors, done=str(done))

        return reptile(model, latents, shape, start, settings, done, on_round)


def model_key(model: FrozenTextToImage) -> str:
    """A hash of a model: its networks, the scale of its latents, its noise schedule."""
    parts: list[str | Tensor] = [*model.schedule.identity]
    for name, network in sorted(model.pipeline.components.items()):
        if isinstance(network, nn.Module):
            config = getattr(network, "config", None)
            scale = [getattr(config, factor, None) for factor in ("scaling_factor", "shift_factor")]
            parts += [name, fingerprint(network), str(scale)]
    return digest(*parts)


def _settings(
    data: DataSettings, amortised: AmortisedSettings, meta: MetaSettings
) -> dict[str, Any]:
    """The settings that a run must share with the run that it resumes."""
    free = ("gradient_accumulation", "checkpoint_every")
    kept = {name: value for name, value in asdict(amortised).items() if name not in free}
    return {"data": asdict(data), "amortised": kept, "meta": asdict(meta)}


def _spread(count: int, most: int) -> Tensor:
    """At most `most` of the indices below `count`, evenly spread."""
    return torch.linspace(0, count - 1, min(count, most), dtype=torch.float64).long()
