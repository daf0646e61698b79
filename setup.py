"""Asks CMake for the extension and pins the torch minor version it is built against."""

import os
import re
import subprocess
import sys
from pathlib import Path

import torch
from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

TORCH_MINOR = ".".join(torch.__version__.split(".")[:2])


class CMakeBuild(build_ext):
    """Configures and builds CMakeLists.txt with ninja, straight into the package folder."""

    def build_extension(self, extension: Extension) -> None:
        source = Path(__file__).parent.resolve()
        package = Path(self.get_ext_fullpath(extension.name)).parent.resolve()
        # Without build isolation, pip leaves the environment's own cmake and ninja off the path.
        tools = {"PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
        build = Path(self.build_temp).resolve() / f"torch-{torch.__version__}"
        subprocess.run(
            [
                *("cmake", "-S", source, "-B", build, "-G", "Ninja"),
                "-DCMAKE_BUILD_TYPE=Release",
                f"-DPython_EXECUTABLE={sys.executable}",
                f"-DINVCAP_PACKAGE_DIR={package}",
                f"-DINVCAP_CUDA={os.environ.get('INVCAP_CUDA', 'auto')}",
            ],
            check=True,
            env=os.environ | tools,
        )
        subprocess.run(
            ["cmake", "--build", build, "--target", "install"], check=True, env=os.environ | tools
        )


def dependencies() -> list[str]:
    listed = Path(__file__).with_name("requirements.txt").read_text().splitlines()
    return [f"torch=={TORCH_MINOR}.*", *(line for line in listed if re.match(r"\w", line))]


setup(
    install_requires=dependencies(),
    ext_modules=[Extension("invcap_ext._C", sources=[])],
    cmdclass={"build_ext": CMakeBuild},
)
