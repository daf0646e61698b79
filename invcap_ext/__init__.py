"""Invertible layers y = leaky_relu(L U x + b), with C++ and CUDA kernels for both directions."""

from importlib.metadata import version

from invcap_ext._build import BuildInfo, build_info, check_built

check_built()

from invcap_ext.diagnostics import LayerRoundTrip, RoundTrip, round_trip  # noqa: E402
from invcap_ext.functional import lu_leaky, lu_leaky_inverse  # noqa: E402
from invcap_ext.layers import InvertibleLinear, InvertibleNetwork  # noqa: E402
from invcap_ext.merged import MergedNetwork  # noqa: E402
from invcap_ext.routes import route  # noqa: E402
from invcap_ext.squared_error import weighted_squared_error  # noqa: E402

__version__ = version("invcap")
__all__ = [
    "BuildInfo",
    "InvertibleLinear",
    "InvertibleNetwork",
    "LayerRoundTrip",
    "MergedNetwork",
    "RoundTrip",
    "__version__",
    "build_info",
    "lu_leaky",
    "lu_leaky_inverse",
    "round_trip",
    "route",
    "weighted_squared_error",
]
