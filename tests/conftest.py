"""What every test gets: one torch thread, fixed seeds, no network hub, no proxy."""

from __future__ import annotations

import os
import random

# Before torch and transformers are imported: both read these once.
os.environ.update(HF_HUB_OFFLINE="1", TRANSFORMERS_OFFLINE="1", TOKENIZERS_PARALLELISM="false")
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
os.environ.update(no_proxy="*", NO_PROXY="*")  # what tests serve themselves, FFmpeg and Python would ask a proxy for

import numpy
import pytest
import torch
from hypothesis import HealthCheck, settings

torch.set_num_threads(1)

# deadline=None: the first call of a torch function is slow. The CI profile tries the same examples in every run.
settings.register_profile("dev", deadline=None, max_examples=25, suppress_health_check=[HealthCheck.too_slow])
settings.register_profile("ci", settings.get_profile("dev"), derandomize=True, database=None)
settings.load_profile("ci" if os.environ.get("CI") else "dev")


@pytest.fixture(autouse=True)
def _seeds() -> None:
    """Start every test from the same random numbers, whatever ran before it and in which worker."""
    random.seed(0)
    numpy.random.seed(0)
    torch.manual_seed(0)
