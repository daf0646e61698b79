"""What the extension was built for, and the ImportError under another torch."""

import os
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import pytest
import torch

from invcap_ext import _build, build_info


def test_build_info_names_the_torch_the_back_ends_and_the_compiler() -> None:
    info = build_info()
    assert info.torch.split(".")[:2] == torch.__version__.split(".")[:2]
    assert info.cuda is None or info.cuda[0].isdigit()
    assert any(char.isdigit() for char in info.compiler)


@pytest.mark.parametrize("running", ("2.13.0", "2.13.1+cu130", "2.13.0a0+git1234"))
def test_any_patch_of_the_minor_version_it_was_built_against_will_do(running: str) -> None:
    _build.check_torch("2.13", running)


@pytest.mark.parametrize("running", ("2.12.1+cpu", "2.14.0", "2.1.3", "3.13.0", "2.130.0"))
def test_another_minor_version_is_an_import_error_with_both_versions_and_the_command(
    running: str,
) -> None:
    with pytest.raises(ImportError) as error:
        _build.check_torch("2.13", running)
    for part in ("torch 2.13,", f"torch {running} ", "pip install --no-build-isolation"):
        assert part in str(error.value)


@pytest.mark.parametrize(
    ("requirement", "version"),
    (
        ("torch==2.13.*", "2.13"),
        ("torch==2.9.*", "2.9"),
        ("torchvision==0.2.*", None),
        ("torch>=2.11", None),
    ),
)
def test_the_version_it_was_built_against_is_read_from_the_requirement(
    requirement: str, version: str | None
) -> None:
    assert _build.required_torch(requirement) == version


def test_the_installed_package_requires_exactly_the_minor_version_of_its_build() -> None:
    versions = [*filter(None, map(_build.required_torch, metadata.requires("invcap") or []))]
    assert versions == [".".join(build_info().torch.split(".")[:2])]


def test_a_missing_extension_is_an_import_error_with_the_command(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(_build.util, "find_spec", lambda name: None)
    with pytest.raises(ImportError, match=r"invcap_ext is not built.*pip install"):
        _build.check_built()


@pytest.mark.slow
def test_importing_under_another_torch_fails_before_the_library_is_loaded() -> None:
    program = (
        "import sys, torch\n"
        "torch.__version__ = '1.99.0'\n"
        "try:\n"
        "    import invcap_ext\n"
        "except ImportError as error:\n"
        "    print(error)\n"
        "    sys.exit(7 if 'invcap_ext._C' not in sys.modules else 8)\n"
    )
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert run.returncode == 7, run.stderr
    assert "torch 1.99.0 is running" in run.stdout
    assert build_info().torch[:4] in run.stdout


def test_a_tensor_of_a_device_without_kernels_is_an_error_that_says_how_to_build_them() -> None:
    elsewhere = torch.ones(3, 3, device="meta")
    built = "and CUDA only" if build_info().cuda else "only; build it for CUDA with: INVCAP_CUDA=1"
    message = f"lu is on meta, but invcap_ext was built for the CPU {built}"
    kernels = torch._C.DispatchKeySet(torch._C.DispatchKey.CPU)
    for name in ("lu_leaky", "lu_leaky_inverse"):
        operator = getattr(torch.ops.invcap, name).default
        with pytest.raises(NotImplementedError, match=message):
            operator.redispatch(kernels, elsewhere, elsewhere, None, 1.0, 0.1)


def built_with(folder: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """What a build into a folder says, with no program but Python's own on PATH."""
    command = (sys.executable, "setup.py", "build_ext", "--build-lib", folder, "--build-temp")
    bare = {key: value for key, value in os.environ.items() if key != "CXX"}
    return subprocess.run(
        [*command, folder / "build"],
        capture_output=True, text=True, cwd=Path(__file__).parents[2],
        env=bare | {"PATH": str(folder)} | environment,
    )  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize(
    ("environment", "missing"), (({}, "c++ or g++ or clang++"), ({"CXX": "icpx -w"}, "icpx"))
)
def test_a_build_without_a_compiler_ends_in_one_line_that_says_what_to_install(
    tmp_path: Path, environment: dict[str, str], missing: str
) -> None:
    done = built_with(tmp_path, **environment)
    assert done.returncode != 0 and "Traceback" not in done.stderr
    last = done.stderr.splitlines()[-1]
    assert f"needs a C++20 compiler, and {missing} was not found: install one (apt install" in last


@pytest.mark.slow
def test_a_build_that_cmake_gives_up_ends_in_one_line(tmp_path: Path) -> None:
    for name in ("g++", "cmake", "ninja"):
        (tmp_path / name).write_text("#!/bin/sh\necho what is wrong >&2\nexit 1\n")
        (tmp_path / name).chmod(0o755)
    done = built_with(tmp_path, CXX="g++")
    assert done.returncode != 0 and "Traceback" not in done.stderr
    assert "invcap_ext was not built: cmake says above" in done.stderr.splitlines()[-1]
