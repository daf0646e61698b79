from dataclasses import replace
from math import inf, nan

import pytest

from invcap.prompt_inversion import InversionSettings

SETTINGS = InversionSettings(draws=4, bank=16)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"draws": 0}, "draws must be at least 1, got 0"),
        ({"bank": 10}, "bank must be a multiple of draws, 4, got 10"),
        ({"held_out": 1}, "held_out must be at least 2, got 1"),
        ({"weighting": "snr"}, "weighting must be one of .* got 'snr'"),
        *(
            ({"learning_rate": rate}, f"learning_rate must be finite and above 0, got {rate}")
            for rate in (0.0, -0.1, nan, inf)
        ),
        ({"clip": nan}, "clip must be finite and above 0, got nan"),
        ({"average": 1.0}, "average must be from 0 to below 1, got 1.0"),
        ({"momentum": nan}, "momentum must be from 0 to below 1, got nan"),
        ({"lr_decay_power": -1.0}, "lr_decay_power must be finite and at least 0, got -1.0"),
        ({"steps": -1}, "steps must be at least 0, got -1"),
        ({"patience": 0}, "patience must be at least 1, got 0"),
        ({"max_rollbacks": -1}, "max_rollbacks must be at least 0, got -1"),
        ({"snapshots": -1}, "snapshots must be at least 0, got -1"),
        ({"evaluate_every": 0}, "evaluate_every must be at least 1, got 0"),
        ({"checkpoint_every": 0}, "checkpoint_every must be at least 1, got 0"),
    ],
)
def test_bad_settings_are_named(change, message):
    with pytest.raises(ValueError, match=message):
        replace(SETTINGS, **change)
