"""The allocator is asked politely, and its absence is no error."""

import ctypes
import platform

import numpy as np
import pytest

from refquant.nn.memory import keep_freed_memory
from refquant.nn.models import initial_parameters


def test_it_may_be_called_twice_and_changes_no_number():
    before = initial_parameters(rng=np.random.default_rng(0))
    assert keep_freed_memory() == keep_freed_memory()
    after = initial_parameters(rng=np.random.default_rng(0))
    assert all(np.array_equal(before[name], after[name]) for name in before)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="a setting of glibc")
def test_glibc_accepts_it():
    assert keep_freed_memory() is True


@pytest.mark.parametrize("error", [AttributeError, OSError, TypeError])
def test_a_library_without_the_setting_is_left_alone(monkeypatch, error):
    def missing(name):
        raise error

    monkeypatch.setattr(ctypes, "CDLL", missing)
    assert keep_freed_memory() is False


def test_a_refusal_is_reported(monkeypatch):
    class Library:
        @staticmethod
        def mallopt(option, value):
            return int(option != -1)

    monkeypatch.setattr(ctypes, "CDLL", lambda name: Library)
    assert keep_freed_memory() is False
