"""Hypothesis profiles, chosen by HYPOTHESIS_PROFILE; workers; long sweeps, only when asked for."""

import os

import pytest
from hypothesis import HealthCheck, settings

if "PYTEST_XDIST_WORKER" in os.environ:         # one of as many as there are cores: it has one
    for library in ("OPENBLAS", "OMP", "MKL"):
        os.environ.setdefault(f"{library}_NUM_THREADS", "1")    # read when NumPy is imported

settings.register_profile(
    "ci",
    max_examples=100,
    deadline=None,
    derandomize=True,
    print_blob=True,
    suppress_health_check=[HealthCheck.too_slow],
)
settings.register_profile("dev", max_examples=30, deadline=None)
settings.register_profile("nightly", max_examples=5000, deadline=None)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "ci"))


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """What takes many minutes runs when its marker is named: -m slow, or -m whole."""
    asked = config.getoption("markexpr")
    for item in items:
        marks = {m for m in ("slow", "peer", "whole") if item.get_closest_marker(m)}
        if "whole" in marks and "whole" not in asked:
            item.add_marker(pytest.mark.skip(reason="a whole experiment: run it with -m whole"))
        elif {"slow", "peer"} <= marks and "slow" not in asked:
            item.add_marker(pytest.mark.skip(reason="a long sweep: run it with -m slow"))
