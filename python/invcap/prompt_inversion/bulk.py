"""`invcap invert`: pictures in, a folder for each of them out; in batches, on many processes."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from datetime import timedelta
from hashlib import sha256
from pathlib import Path
from typing import Any

import torch
from accelerate import PartialState
from accelerate.utils import broadcast_object_list, parse_flag_from_env
from PIL import Image

from invcap.captioning import InvertibleCaptioner
from invcap.data import Skipped, fit_picture, log_skipped
from invcap.data.example import listing
from invcap.data.pictures import SUFFIXES, open_picture, pictures_in
from invcap.files import read_json, write_json
from invcap.hashing import same_signature, signature
from invcap.prompt_inversion.inversion import InversionSettings, PromptInversionOutput
from invcap.prompt_inversion.parametrization import Over
from invcap.prompt_inversion.pipeline import PromptInversionPipeline
from invcap.prompt_inversion.report import write_inversion
from invcap.prompt_inversion.starts import start_of

logger = logging.getLogger(__name__)
RECORD = "run.json"
RESULT = "result.json"
CHECKPOINTS = "checkpoints"
PATIENCE = timedelta(days=365)


@dataclass(frozen=True)
class RunSettings:
    """How a run inverts its pictures.

    Attributes:
        size: (height, width) that pictures are scaled to, pixels.
        inversion: how the bound is maximised.
        start: where to begin: a sentence, "caption", "amortised" or "meta".
        captioner: folder of the captioner, for the start "caption" and for words.
        starts: folder of learned starts, if not the model's own.
        words: also find a prompt in words.
        over: what is optimised, see `PromptInversionPipeline.invert`.
        seed: of the first picture; each has one more than the picture before it.
        guidance_scale: of the generated pictures.
        batch_size: pictures inverted at once.
    """

    size: tuple[int, int]
    inversion: InversionSettings = field(default_factory=InversionSettings)
    start: str = "a room"
    captioner: str | None = None
    starts: str | None = None
    words: bool = False
    over: Over = "hidden_states"
    seed: int = 0
    guidance_scale: float = 1.0
    batch_size: int = 32

    def __post_init__(self) -> None:
        if self.batch_size < 1:
            raise ValueError(f"batch_size must be at least 1, got {self.batch_size}")


@dataclass(frozen=True)
class Source:
    """A picture file.

    Attributes:
        path: of the file.
        name: its path in the folder where it was found, or its own name.
        found: whether it was found in a folder, not named itself.
    """

    path: Path
    name: str
    found: bool

    @property
    def folder(self) -> Path:
        """Where in a run's output its files are."""
        return Path(self.name).with_suffix("")


def start_processes() -> PartialState:
    """The processes that a launcher started, or this one alone.

    They wait for each other as long as it takes: in a resumed run, one may have all to do.
    """
    cpu = parse_flag_from_env("ACCELERATE_USE_CPU") or not torch.cuda.is_available()
    return PartialState(cpu=cpu, timeout=PATIENCE)


def invert(
    pipeline: PromptInversionPipeline,
    paths: Sequence[Path],
    output: Path,
    settings: RunSettings,
    processes: PartialState,
    resume: bool = False,
) -> list[dict[str, Any]]:
    """Inverts pictures and writes a folder for each; see `PromptInversionPipeline.invert`.

    Batches take turns among the processes. A run that was killed goes on with `resume`, and ends
    as if it had never stopped.

    Args:
        paths: picture files, and folders that stand for the picture files in them.
        processes: of which the main one lists the pictures and records the run.

    Returns:
        For each picture: its file, the embedding's file, the held-out bound with its standard
        error, the gradient steps and UNet evaluations it took, and its share of the seconds.

    Raises:
        ValueError: the pictures or a setting cannot be used, or `output` holds a run and `resume`
            is false, or one of other pictures, settings or weights.
    """
    begun = begin(pipeline, paths, output, settings, resume) if processes.is_main_process else None
    (sources,) = broadcast_object_list([begun])
    captioner = None
    if settings.captioner is not None:
        captioner = InvertibleCaptioner.from_pretrained(settings.captioner)
    batches = range(-(-len(sources) // settings.batch_size))
    for number in batches[processes.process_index :: processes.num_processes]:
        pipeline.set_progress_bar_config(
            desc=f"batch {number + 1} of {len(batches)}", disable=not processes.is_main_process
        )
        invert_batch(pipeline, captioner, sources, number, output, settings)
    processes.wait_for_everyone()
    return [read_json(output / source.folder / RESULT) for source in sources]


def begin(
    pipeline: PromptInversionPipeline,
    paths: Sequence[Path],
    output: Path,
    settings: RunSettings,
    resume: bool,
) -> list[Source]:
    """Lists the pictures and records the run, or makes sure that it is the one to resume.

    Raises:
        ValueError: as `invert` does; nothing has been written then.
    """
    path = output / RECORD
    if path.exists() and not resume:
        raise ValueError(f"{output}: holds an inversion; resume it, or give another folder")
    sources = usable([source for path in paths for source in find_sources(path, output)])
    check_folders(sources)
    record = {
        **asdict(settings),
        "dtype": str(pipeline.unet.dtype),
        "model": pipeline.name_or_path,
        "signature": signature(pipeline.unet),
        "pictures": [source.name for source in sources],
        "contents": [sha256(source.path.read_bytes()).hexdigest() for source in sources],
    }
    if path.exists():
        check_record(output, json.loads(json.dumps(record)))
        remove_unfinished([output / CHECKPOINTS, *(output / source.folder for source in sources)])
    else:
        latents = pipeline.encode_images(sources[0].path, settings.size)
        # The captioner has not spoken yet: any sentence stands for what it will say.
        said = None if settings.captioner is None else ["a picture"]
        for start in start_of(pipeline, settings.start, latents, said, settings.starts):
            if isinstance(start, str):
                pipeline.check_prompt(start)
        write_json(path, record)
    return sources


def remove_unfinished(folders: Sequence[Path]) -> None:
    """Removes the files that a killed process had begun to write."""
    for folder in folders:
        for unfinished in folder.glob(".*.tmp"):
            unfinished.unlink()


def find_sources(path: Path, output: Path) -> list[Source]:
    """The picture files that a path stands for: itself, or all in the folder, sorted by path.

    Raises:
        ValueError: the folder has no picture, or `output` lies in it: what a run draws there would
            be taken for its pictures.
    """
    if not path.is_dir():
        return [Source(path, path.name, found=False)]
    if output.resolve().is_relative_to(path.resolve()):
        raise ValueError(f"{output}: must not be in {path}, the pictures' folder")
    sources = [
        Source(file, file.relative_to(path).as_posix(), found=True)
        for file in sorted(pictures_in(path))
        if not file.is_dir()
    ]
    if not sources:
        suffixes = ", ".join(sorted(SUFFIXES))
        raise ValueError(f"{path}: expected pictures in the folder ({suffixes}), found none")
    return sources


def usable(sources: Sequence[Source]) -> list[Source]:
    """Those that can be decoded; the others are logged.

    Raises:
        ValueError: one that was not found but named cannot be decoded, or none can.
    """
    with ThreadPoolExecutor() as pool:
        faults = list(pool.map(fault_of, sources))
    checked = list(zip(sources, faults, strict=True))
    for source, fault in checked:
        if fault is not None and not source.found:
            raise ValueError(f"{source.path}: expected a picture: {fault.reason}")
    skipped = [fault for fault in faults if fault is not None]
    if len(skipped) == len(sources):
        raise ValueError(
            f"expected pictures, but none of {len(sources)} can be decoded\n{listing(skipped, 5)}"
        )
    log_skipped(skipped, logger)
    return [source for source, fault in checked if fault is None]


def fault_of(source: Source) -> Skipped | None:
    """Why a picture cannot be decoded; None if it can."""
    try:
        open_picture(source.path)
    except OSError as error:
        return Skipped(str(source.path), str(error))
    return None


def check_folders(sources: Sequence[Source]) -> None:
    """Raises ValueError unless every picture has an output folder of its own."""
    taken: dict[Path, Source] = {}
    for source in sources:
        other = taken.setdefault(source.folder, source)
        if other is not source:
            raise ValueError(
                f"pictures must differ in name, got {other.path} and {source.path}, both for "
                f"{source.folder}"
            )


def check_record(output: Path, asked: dict[str, Any]) -> None:
    """Raises ValueError, naming the first difference, unless `output` holds the run asked for."""
    had = read_json(output / RECORD)
    if not same_signature(had["signature"], asked["signature"]):
        raise ValueError(
            f"{output}: cannot resume with other weights: the folder has those of "
            f"{had['model']}, this run those of {asked['model']}"
        )
    before, now = flat(had), flat(asked)
    for name in before | now:
        if before.get(name) != now.get(name):
            raise ValueError(
                f"{output}: cannot resume with another {name}: the folder has "
                f"{before.get(name)}, this run {now.get(name)}"
            )
    for name, was, now_is in zip(had["pictures"], had["contents"], asked["contents"], strict=True):
        if was != now_is:
            raise ValueError(f"{output}: cannot resume: {name} is not the picture that it was")


def flat(record: dict[str, Any]) -> dict[str, Any]:
    """What must not differ between a run and its resumption, one entry for each fact."""
    apart = ("inversion", "model", "signature", "pictures", "contents")
    facts = {name: value for name, value in record.items() if name not in apart}
    pictures = {f"picture {number}": name for number, name in enumerate(record["pictures"], 1)}
    return facts | record["inversion"] | pictures


def invert_batch(
    pipeline: PromptInversionPipeline,
    captioner: InvertibleCaptioner | None,
    sources: Sequence[Source],
    number: int,
    output: Path,
    settings: RunSettings,
) -> None:
    """Inverts one batch of a run's pictures and writes what is missing, if anything is."""
    first = number * settings.batch_size
    batch = sources[first : first + settings.batch_size]
    folders = [output / source.folder for source in batch]
    missing = [index for index, folder in enumerate(folders) if not (folder / RESULT).exists()]
    checkpoint = output / CHECKPOINTS / f"{number:05}.safetensors"
    if missing:
        seed = settings.seed + first
        targets = [fit_picture(open_picture(source.path), settings.size) for source in batch]
        targets = [Image.fromarray(pixels) for pixels in targets]
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
            words=settings.words,
            checkpoint=checkpoint,
        )
        seconds = (time.perf_counter() - started) / len(batch)
        for index in missing:
            written = write_inversion(
                folders[index], pipeline, targets[index], found, index, seed + index
            )
            row = {"picture": str(batch[index].path), "embedding": str(written)}
            row |= measured(found, index) | {"seconds": seconds}
            write_json(folders[index] / RESULT, row)
    checkpoint.unlink(missing_ok=True)


def measured(found: PromptInversionOutput, index: int) -> dict[str, Any]:
    """What an inversion found for one picture, in plain numbers and words."""
    row = {
        "log_likelihood": found.log_likelihood[index].item(),
        "standard_error": found.standard_error[index].item(),
        "steps": found.steps[index],
        "unet_evaluations": found.unet_evaluations[index],
    }
    if found.prompts is not None:
        row["prompt"] = found.prompts[index]
        row["prompt_log_likelihood"] = found.prompt_log_likelihood[index].item()
        row["prompt_standard_error"] = found.prompt_standard_error[index].item()
    return row
