"""Asks CMake for the extension and pins the torch minor version it is built against."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import torch
from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext
from setuptools.errors import CompileError, PlatformError

TORCH_MINOR = ".".join(torch.__version__.split(".")[:2])
COMPILERS = ("c++", "g++", "clang++")


class CMakeBuild(build_ext):
    """Configures and builds CMakeLists.txt with ninja, straight into the package folder."""

    def build_extension(self, extension: Extension) -> None:
        source = Path(__file__).parent.resolve()
        package = Path(self.get_ext_fullpath(extension.name)).parent.resolve()
        # Without build isolation, pip leaves the environment's own cmake and ninja off the path.
        path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
        check_tools(path)
        build = Path(self.build_temp).resolve() / f"torch-{torch.__version__}"
        configure = (
            *("cmake", "-S", source, "-B", build, "-G", "Ninja"),
            "-DCMAKE_BUILD_TYPE=Release",
            f"-DPython_EXECUTABLE={sys.executable}",
            f"-DINVCAP_PACKAGE_DIR={package}",
            f"-DINVCAP_CUDA={os.environ.get('INVCAP_CUDA', 'auto')}",
        )
        for command in (configure, ("cmake", "--build", build, "--target", "install")):
            if subprocess.run(command, env=os.environ | {"PATH": path}).returncode != 0:
                raise CompileError("invcap_ext was not built: cmake says above what is wrong")


def check_tools(path: str) -> None:
    """Raises PlatformError, in one line, where something that compiles is missing."""
    compilers = (os.environ["CXX"].split()[0],) if os.environ.get("CXX") else COMPILERS
    if not any(shutil.which(name, path=path) for name in compilers):
        raise PlatformError(
            f"invcap_ext needs a C++20 compiler, and {' or '.join(compilers)} was not found: "
            "install one (apt install g++, dnf install gcc-c++ or xcode-select --install), or a "
            "wheel built for your versions of Python and torch"
        )
    for name in ("cmake", "ninja"):
        if not shutil.which(name, path=path):
            raise PlatformError(f"invcap_ext needs {name}: pip install {name}")


def dependencies() -> list[str]:
    listed = Path(__file__).with_name("requirements.txt").read_text().splitlines()
    return [f"torch=={TORCH_MINOR}.*", *(line for line in listed if re.match(r"\w", line))]


setup(
    install_requires=dependencies(),
    ext_modules=[Extension("invcap_ext._C", sources=[])],
    cmdclass={"build_ext": CMakeBuild},
)
