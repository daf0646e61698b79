"""What `invcap train-starts` learns for a model: the amortised start, axes, and the meta start."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from accelerate import Accelerator
from torch import Tensor
from tqdm import tqdm

from invcap.diffusion.conditioning import Conditioning
from invcap.diffusion.model import FrozenTextToImage
from invcap.files import read_tensors, write_tensors
from invcap.prompt_inversion.amortised import AmortisedStart
from invcap.prompt_inversion.axes import FILE, learn_axes, save_axes
from invcap.prompt_inversion.embeddings import save_conditioning
from invcap.prompt_inversion.meta import MetaSettings, reptile
from invcap.prompt_inversion.train_amortised import AmortisedSettings, train_amortised
from invcap.data.shards import Rows

PROMPTS_AT_ONCE = 64
BASIS_OF = 2048
AXES_OF = 256
META_START = "a room"


def learn_starts(
    model: FrozenTextToImage,
    latents: Rows,
    shape: tuple[int, int, int],
    captions: Sequence[str],
    amortised: AmortisedSettings,
    meta: MetaSettings,
    output: Path,
    work: Path,
    accelerator: Accelerator,
) -> list[Path]:
    """Learns starts from training images and writes them; a killed run resumes.

    Args:
        latents: (N, C h w), of the images.
        shape: (C, h, w).
        captions: one for each image.
        amortised, meta: how the two starts are learned.
        output: folder for the starts.
        work: folder of the checkpoints, each model's in a folder of its own.

    Returns:
        The files.
    """
    work = work / model.fingerprint[:16]
    some = latents[torch.arange(min(BASIS_OF, len(latents)))].view(-1, *shape)
    prompts = encode(model, captions[:: max(1, len(captions) // BASIS_OF)][:BASIS_OF])
    start = AmortisedStart.of(some, prompts.cpu(), amortised.seed)
    codes = caption_codes(model, start, captions)
    start = train_amortised(model, start, latents, codes, amortised, work, accelerator)
    files = [output / name for name in ("amortised.safetensors", FILE, "meta.safetensors")]
    if accelerator.is_main_process:
        start.to(model.device).save(files[0], model)
        few = some[:AXES_OF].to(model.device)
        with torch.no_grad():
            begun = Conditioning({model.optimized: start(few)})
        save_axes(output, learn_axes(model, few, begun, amortised.seed), model)
        save_conditioning(files[2], learn_meta(model, latents, shape, meta, work), model)
    accelerator.wait_for_everyone()
    return files


@torch.no_grad()
def encode(model: FrozenTextToImage, captions: Sequence[str]) -> Tensor:
    """The tensors of captions that inversions optimize, (N, ...)."""
    parts = [captions[at : at + PROMPTS_AT_ONCE] for at in range(0, len(captions), PROMPTS_AT_ONCE)]
    return torch.cat([model.encode_prompts(part).tensors[model.optimized] for part in parts])


@torch.no_grad()
def caption_codes(
    model: FrozenTextToImage, start: AmortisedStart, captions: Sequence[str]
) -> Tensor:
    """The codes (N, K) of captions, a part of them in memory at a time."""
    start = start.to(model.device)
    parts = range(0, len(captions), PROMPTS_AT_ONCE)
    codes = [
        start.code_of(encode(model, captions[at : at + PROMPTS_AT_ONCE])).cpu()
        for at in tqdm(parts, desc="captions")
    ]
    return torch.cat(codes)


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
    with tqdm(total=settings.rounds, initial=done, desc="meta") as bar:

        def on_round(done: int, start: Conditioning) -> None:
            bar.update()
            write_tensors(path, start.tensors, done=str(done))

        return reptile(model, latents, shape, start, settings, done, on_round)
