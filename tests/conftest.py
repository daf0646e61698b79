"""One thread each for the processes that share the cores: set before anything imports torch."""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")
