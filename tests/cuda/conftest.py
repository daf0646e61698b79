"""Tests that need a GPU are left out at collection where there is none."""

import torch

from invcap_ext import build_info

collect_ignore_glob = [] if build_info().cuda and torch.cuda.is_available() else ["test_*.py"]
