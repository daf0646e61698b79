"""Real captioned images from Debian: the drawings of the Open Clip Art Library."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from xml.etree import ElementTree

import numpy as np
from PIL import Image
from tqdm import tqdm

from invcap.data.example import Skipped, log_skipped
from invcap.data.images import pad_to_square, to_rgb, trim
from invcap.data.near_duplicates import colours, connected, difference_hash, near_duplicates
from invcap.data.new_folder import Captioned, FolderSummary, new_folder, write_metadata
from invcap.data.openclipart_titles import Facts, name_drawings

logger = logging.getLogger(__name__)
OPENCLIPART = Path("/usr/share/openclipart")
DRAWN, MARGIN = 240, 8  # pixels: 256 in all
DUBLIN_CORE = "{http://purl.org/dc/elements/1.1/}"


@dataclass(frozen=True)
class OpenclipartSummary(FolderSummary):
    """Also: the size of the largest group, and how many titles said nothing and were replaced."""

    largest_group: int
    replaced_titles: int


def write_openclipart(output: Path, source: Path = OPENCLIPART) -> OpenclipartSummary:
    """Writes the drawings in `source`, scaled down, into a folder that `load_examples` reads.

    The folder gets, in the folders of the collection, a square PNG of each drawing in `source/png`
    (on white, without its margins, at most 256 pixels a side), and `metadata.jsonl`: captions out
    of the metadata of its SVG in `source/svg` (see `name_drawings`) and a group that it shares with
    its series and with its near-duplicates. It appears complete or not at all. What cannot be
    decoded, and what shows nothing on white, is left out and logged.

    Raises:
        ValueError: `output` exists and is not an empty folder, or the drawings are missing.
    """
    paths = _drawings(source)
    with new_folder(output) as folder:
        facts, hashes, thumbnails = [], [], []
        skipped: list[Skipped] = []
        for path in tqdm(paths, "openclipart", unit="picture", disable=None):
            name = path.relative_to(source / "png")
            try:
                picture = read_drawing(path)
            except (OSError, Image.DecompressionBombError) as error:
                skipped.append(Skipped(name.as_posix(), str(error)))
                continue
            if picture is None:
                skipped.append(Skipped(name.as_posix(), "shows nothing on white"))
                continue
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            pad_to_square(picture, MARGIN).save(folder / name)
            facts.append(read_facts(source / "svg", name))
            hashes.append(difference_hash(picture))
            thumbnails.append(colours(picture))
        log_skipped(skipped, logger)
        if not facts:
            raise ValueError(f"source: expected drawings in {source}, got none that can be used")
        names = name_drawings(facts)
        pairs = near_duplicates(np.stack(hashes), np.stack(thumbnails))
        groups = connected([name.stem for name in names], pairs)
        rows = [
            Captioned(f"{fact.path}.png", name.captions, str(facts[group].path))
            for fact, name, group in zip(facts, names, groups, strict=True)
        ]
        write_metadata(folder, rows)
    sizes = np.bincount(groups)
    return OpenclipartSummary(
        output,
        pictures=len(rows),
        groups=int((sizes > 0).sum()),
        largest_group=int(sizes.max()),
        replaced_titles=sum(name.replaced for name in names),
    )


def read_drawing(path: Path) -> Image.Image | None:
    """What a drawing shows on white, RGB, at most `DRAWN` pixels a side; None if that is nothing.

    Raises:
        OSError, PIL.Image.DecompressionBombError: it cannot be decoded.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)
        opened = Image.open(path, formats=["PNG"])
    with opened:
        picture: Image.Image = opened
        step = max(picture.size) // (16 * DRAWN)
        if step > 1:
            size = (picture.width // step, picture.height // step)
            picture = picture.resize(size, Image.Resampling.NEAREST)
        if picture.mode not in ("L", "RGB", "RGBA"):
            picture = picture.convert("RGBA")
        picture.thumbnail((DRAWN * 3 // 2, DRAWN * 3 // 2), Image.Resampling.HAMMING)
        shown = trim(to_rgb(picture))
    if shown is not None:
        shown.thumbnail((DRAWN, DRAWN), Image.Resampling.HAMMING)
    return shown


def read_facts(folder: Path, name: Path) -> Facts:
    """Title, keywords and author in the SVG of a drawing; without one, its path alone."""
    path = PurePosixPath(name.with_suffix(""))
    svg = folder / f"{path}.svg"
    try:
        work = next(_works(svg), None)
    except (OSError, ElementTree.ParseError) as error:
        logger.warning("%s: no metadata: %s", svg, error)
        work = None
    if work is None:
        return Facts(path)
    return Facts(
        path,
        title=_text(work.find(f"{DUBLIN_CORE}title")),
        keywords=[_text(item) for item in work.findall(f"{DUBLIN_CORE}subject//{{*}}li")],
        creator=_text(work.find(f"{DUBLIN_CORE}creator//{DUBLIN_CORE}title")),
    )


def _works(svg: Path) -> Iterator[ElementTree.Element]:
    for _, element in ElementTree.iterparse(svg):
        if element.tag.endswith("}Work"):
            yield element


def _text(element: ElementTree.Element | None) -> str:
    return "" if element is None or element.text is None else element.text.strip()


def _drawings(source: Path) -> list[Path]:
    missing = [kind for kind in ("png", "svg") if not (source / kind).is_dir()]
    if missing:
        packages = " ".join(f"openclipart-{kind}" for kind in missing)
        raise ValueError(
            f"source: no folder {' or '.join(str(source / kind) for kind in missing)}; expected "
            f"what Debian has in the package {packages} (apt-get install {packages})"
        )
    return sorted((source / "png").rglob("*.png"))
