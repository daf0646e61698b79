"""How the extension was built, and a check that it fits the running torch before it is loaded."""

import re
from dataclasses import dataclass
from importlib import metadata, util
from pathlib import Path

import torch

REBUILD = "pip install --no-build-isolation --force-reinstall --no-deps"
SOURCE = Path(__file__).parent.parent


@dataclass(frozen=True)
class BuildInfo:
    """How `invcap_ext._C` was built.

    Attributes:
        torch: version of torch it was built against.
        cuda: version of CUDA its kernels were built with; None in a build for the CPU only.
        compiler: name and version of the C++ compiler.
    """

    torch: str
    cuda: str | None
    compiler: str


def build_info() -> BuildInfo:
    """Returns how the installed extension was built."""
    from invcap_ext._C import build_info as built

    return BuildInfo(**built())


def check_built() -> None:
    """Raises ImportError if the extension is missing or was built against another torch.

    Loading it under another minor version of torch fails with undefined symbols or crashes, so this
    reads the version from the requirements of the installed package instead.
    """
    if util.find_spec("invcap_ext._C") is None:
        raise ImportError(
            f"invcap_ext is not built in {SOURCE}; build it with: {REBUILD} -e {SOURCE}"
        )
    requirements = metadata.requires("invcap") or []
    check_torch(next(filter(None, map(required_torch, requirements))), torch.__version__)


def required_torch(requirement: str) -> str | None:
    """Returns "2.13" for "torch==2.13.*", and None for any other requirement."""
    match = re.fullmatch(r"torch==(\d+\.\d+)\.\*", requirement)
    return match and match[1]


def check_torch(built: str, running: str) -> None:
    """Raises ImportError unless the full version `running` has the minor version `built`."""
    if running.split(".")[:2] != built.split("."):
        raise ImportError(
            f"invcap_ext was built against torch {built}, but torch {running} is running; "
            f"rebuild it in its source folder with: {REBUILD} ."
        )
