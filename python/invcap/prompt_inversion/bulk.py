"""`invcap invert`: inverts image files in batches, on any number of processes.

Each image gets a folder of results.
"""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from accelerate import Accelerator
from accelerate.utils import broadcast_object_list
from PIL import Image

from invcap.checks import check_at_least
from invcap.data import fit_image
from invcap.data.images import open_image
from invcap.files import read_json, remove_unfinished, write_json, write_text
from invcap.hashing import check_identity, same_signature
from invcap.prompt_inversion.inputs import check_inputs
from invcap.prompt_inversion.joint import check_joint
from invcap.prompt_inversion.output import PromptInversionOutput
from invcap.prompt_inversion.parametrization import OVER_TOKENS, Parametrization
from invcap.prompt_inversion.pipeline import OnStep, PromptInversionPipeline
from invcap.prompt_inversion.report import write_inversion
from invcap.prompt_inversion.search import SearchSettings
from invcap.prompt_inversion.settings import InversionSettings
from invcap.prompt_inversion.sources import Source, check_folders, find_sources, usable
from invcap.prompt_inversion.word_search import WordSearch
from invcap.prompt_inversion.words import Captioner

RECORD = "run.json"
RESULT = "result.json"
CHECKPOINTS = "checkpoints"
TOGETHER = "together"
MOST_SEED = 2**62


@dataclass(frozen=True)
class RunSettings:
    """How a run inverts its images.

    Attributes:
        size: (height, width) that images are scaled to, in pixels.
        inversion: how the bound is maximized.
        start: the initial prompt: a sentence, "caption", "amortised" or "meta".
        captioner: folder of the captioner, for the start "caption" and for words.
        starts: folder of learned starts, if not the model's own.
        words: also find a prompt in words.
        sentences: a hash of the bank of sentences that is searched for words; None without a bank.
        search: settings of that search.
        proposer: name and prompt of the image-to-text model that proposes words.
        write_txt: write the prompt in words to a text file beside an image's folder.
        over: what is optimized, see `PromptInversionPipeline.invert`.
        seed: seed of the first image; each further image has the next number.
        guidance_scale: guidance of the generated images.
        batch_size: images inverted at once.
        together: find one prompt for all images.
        negative: find prompts that make images least likely.
    """

    size: tuple[int, int]
    inversion: InversionSettings = field(default_factory=InversionSettings)
    start: str = "a room"
    captioner: str | None = None
    starts: str | None = None
    words: bool = False
    sentences: str | None = None
    search: SearchSettings | None = None
    proposer: str | None = None
    write_txt: bool = False
    over: Parametrization = "hidden_states"
    seed: int = 0
    guidance_scale: float = 1.0
    batch_size: int = 32
    together: bool = False
    negative: bool = False

    def __post_init__(self) -> None:
        check_at_least(self, 1, "batch_size")
        if not 0 <= self.seed < MOST_SEED:
            raise ValueError(f"seed must be from 0 to below {MOST_SEED}, got {self.seed}")
        if self.write_txt and not self.words:
            raise ValueError("write_txt needs words, got write_txt without words")


def invert(
    pipeline: PromptInversionPipeline,
    paths: Sequence[Path],
    output: Path,
    settings: RunSettings,
    processes: Accelerator,
    resume: bool = False,
    captioner: Captioner | None = None,
    search: WordSearch | None = None,
    callback_on_step_end: OnStep | None = None,
) -> list[dict[str, Any]]:
    """Inverts images and writes a folder for each; see `PromptInversionPipeline.invert`.

    Batches are distributed over the processes. A run that was killed resumes with `resume`, and
    writes the same bytes as an uninterrupted run, on the same kind of processor and with the same
    number of threads.

    Args:
        pipeline: the model.
        paths: image files, and folders of image files.
        output: folder for the results.
        settings: how images are inverted.
        processes: the main one lists the images and records the run.
        resume: continue the run in `output`.
        captioner: the captioner that `settings.captioner` names.
        search: the bank, proposer and settings that `settings` names.
        callback_on_step_end: for each batch, see `PromptInversionPipeline.invert`.

    Returns:
        For each image, or for all together: the image file, the embedding's file, the held-out
        bound with its standard error, the numbers of gradient steps and UNet evaluations, and the
        seconds (those of the batch, divided by its images).

    Raises:
        ValueError: the images or a setting cannot be used, or `output` holds a run and `resume`
            is false, or one of other images, settings or weights.
    """
    begun = begin(pipeline, paths, output, settings, resume) if processes.is_main_process else None
    (sources,) = broadcast_object_list([begun])
    at_once = len(sources) if settings.together else settings.batch_size
    batches = range(-(-len(sources) // at_once))
    for number in batches[processes.process_index :: processes.num_processes]:
        pipeline.set_progress_bar_config(
            desc=f"batch {number + 1} of {len(batches)}", disable=not processes.is_main_process
        )
        invert_batch(
            pipeline, captioner, search, sources, number, output, settings, callback_on_step_end
        )
    processes.wait_for_everyone()
    return [read_json(folder / RESULT) for folder in folders_of(sources, output, settings)]


def folders_of(sources: Sequence[Source], output: Path, settings: RunSettings) -> list[Path]:
    """Where the results for some images are: a folder for each, or one for all together."""
    if settings.together:
        return [output / TOGETHER]
    return [output / source.folder for source in sources]


def begin(
    pipeline: PromptInversionPipeline,
    paths: Sequence[Path],
    output: Path,
    settings: RunSettings,
    resume: bool,
) -> list[Source]:
    """Lists the images and records the run, or checks that it is the one to resume.

    Raises:
        ValueError: see `invert`; nothing has been written then.
    """
    path = output / RECORD
    if path.exists() and not resume:
        raise ValueError(f"{output}: holds an inversion; resume it, or give another folder")
    learned = pipeline.learned_starts(settings.starts)
    check_joint(settings.start, settings.words, settings.together, settings.negative)
    check_inputs(
        learned,
        settings.inversion,
        settings.start,
        settings.over,
        settings.size,
        settings.guidance_scale,
        settings.captioner is not None,
        settings.words,
        settings.sentences is not None or settings.proposer is not None,
    )
    sources, contents = usable([source for path in paths for source in find_sources(path, output)])
    check_folders(sources)
    together = min(settings.batch_size, len(sources))
    if together > 1 and settings.start == "caption" and settings.over in OVER_TOKENS:
        raise ValueError(
            f"batch_size must be 1 for captions over {settings.over!r}, which differ in length, "
            f"got {settings.batch_size}"
        )
    model = pipeline.model
    optional = ("together", "negative", "sentences", "search", "proposer", "write_txt")
    apart = {name for name in optional if not getattr(settings, name)}
    record = {
        **{name: value for name, value in asdict(settings).items() if name not in apart},
        "dtype": str(model.dtype),
        "model": model.name,
        "signature": model.signature,
        "learned": learned.fingerprint,
        "pictures": [source.name for source in sources],
        "contents": contents,
    }
    if path.exists():
        check_record(path, json.loads(json.dumps(record)))
        remove_unfinished(output / CHECKPOINTS, *folders_of(sources, output, settings))
    else:
        write_json(path, record)
    return sources


def check_record(path: Path, asked: dict[str, Any]) -> None:
    """Raises ValueError, naming the first difference, unless a file records the run asked for."""
    had = read_json(path)
    if not isinstance(had, dict) or not {"model", "signature", "pictures", "contents"} <= {*had}:
        raise ValueError(f"{path}: not the record of an inversion")
    if not same_signature(had["signature"], asked["signature"]):
        raise ValueError(
            f"{path}: cannot resume: the weights differ: the file has those of "
            f"{had['model']}, this run those of {asked['model']}"
        )
    check_identity(path, comparable(had), comparable(asked))
    for name, was, now_is in zip(had["pictures"], had["contents"], asked["contents"], strict=True):
        if was != now_is:
            raise ValueError(f"{path}: cannot resume: {name} is not the image that it was")


def comparable(record: dict[str, Any]) -> dict[str, Any]:
    """What must not differ between a run and the run that it resumes."""
    apart = ("model", "signature", "pictures", "contents")
    facts = {name: value for name, value in record.items() if name not in apart}
    return facts | {f"picture {number}": name for number, name in enumerate(record["pictures"], 1)}


def invert_batch(
    pipeline: PromptInversionPipeline,
    captioner: Captioner | None,
    search: WordSearch | None,
    sources: Sequence[Source],
    number: int,
    output: Path,
    settings: RunSettings,
    callback_on_step_end: OnStep | None = None,
) -> None:
    """Inverts one batch of a run's images, unless all of its results are there already."""
    at_once = len(sources) if settings.together else settings.batch_size
    first = number * at_once
    batch = sources[first : first + at_once]
    folders = folders_of(batch, output, settings)
    missing = [index for index, folder in enumerate(folders) if not (folder / RESULT).exists()]
    checkpoint = output / CHECKPOINTS / f"{number:05}.safetensors"
    if missing:
        seed = settings.seed + first
        targets = [
            Image.fromarray(fit_image(open_image(source.path), settings.size)) for source in batch
        ]
        started = time.perf_counter()
        found = pipeline.invert(
            targets,
            settings.start,
            settings.inversion,
            settings.over,
            seeds=seed,
            size=settings.size,
            guidance_scale=settings.guidance_scale,
            captioner=captioner,
            starts=settings.starts,
            words=(search or True) if settings.words else False,
            together=settings.together,
            negative=settings.negative,
            checkpoint=checkpoint,
            callback_on_step_end=callback_on_step_end,
        )
        seconds = (time.perf_counter() - started) / len(folders)
        for index in missing:
            written = write_inversion(
                folders[index],
                pipeline.model,
                targets if settings.together else targets[index : index + 1],
                found,
                index,
                seed + index,
                settings.guidance_scale,
                settings.negative,
            )
            row: dict[str, Any] = {"picture": str(batch[index].path)}
            if settings.together:
                row = {"pictures": [str(source.path) for source in batch]}
            row["embedding"] = str(written)
            row |= measured(found, index) | {"seconds": seconds}
            if settings.write_txt:
                folder = folders[index]
                write_text(folder.with_name(f"{folder.name}.txt"), row["prompt"] + "\n")
            write_json(folders[index] / RESULT, row)
    checkpoint.unlink(missing_ok=True)


def measured(found: PromptInversionOutput, index: int) -> dict[str, Any]:
    """An inversion's results for one image, as JSON takes them."""
    row: dict[str, Any] = {
        "log_likelihood": found.log_likelihood[index].item(),
        "standard_error": found.standard_error[index].item(),
        "steps": found.steps[index],
        "unet_evaluations": found.unet_evaluations[index],
    }
    if found.prompts is not None:
        row["prompt"] = found.prompts[index]
        for name in ("prompt_log_likelihood", "prompt_standard_error"):
            row[name] = getattr(found, name)[index].item()
    if found.prompt_evaluations is not None:
        row["prompt_evaluations"] = found.prompt_evaluations[index]
    return row
