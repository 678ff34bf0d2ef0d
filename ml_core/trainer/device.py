"""Where training computes, and what makes it repeat there."""

import os
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from ml_core.errors import InvalidSettingsError


def choose_device(name: str) -> torch.device:
    """Return the device that ``auto``, ``cpu`` or ``cuda`` stands for; ``auto`` is CUDA where there is one.

    Raises:
        InvalidSettingsError: ``cuda``, and torch finds none.
    """
    found = torch.cuda.is_available()
    if name == "cuda" and not found:
        raise InvalidSettingsError("train.device: 'cuda', and torch finds no CUDA device; write 'auto' or 'cpu'")
    return torch.device("cuda" if found and name != "cpu" else "cpu")


@contextmanager
def repeatable(device: torch.device, *, seed: int, threads: int) -> Iterator[None]:
    """Seed torch and let it use ``threads``; equal steps give equal bits on ``device``. All is put back after."""
    before = torch.get_num_threads(), torch.are_deterministic_algorithms_enabled()
    on_gpu = device.type == "cuda"
    if on_gpu:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # without it cuBLAS may not repeat itself
    torch.set_num_threads(threads)
    torch.use_deterministic_algorithms(on_gpu or before[1])  # on a CPU all that is used here repeats itself
    try:
        with torch.random.fork_rng(devices=[torch.cuda.current_device()] if on_gpu else []):
            torch.manual_seed(seed)
            yield
    finally:
        torch.set_num_threads(before[0])
        torch.use_deterministic_algorithms(before[1])


def random_state(device: torch.device) -> dict[str, torch.Tensor]:
    """Return the state of the generators that steps on ``device`` draw from."""
    states = {"cpu": torch.get_rng_state()}
    return {**states, "cuda": torch.cuda.get_rng_state()} if device.type == "cuda" else states


def set_random_state(states: dict[str, torch.Tensor]) -> None:
    """Go on from what ``random_state`` returned."""
    torch.set_rng_state(states["cpu"])
    if "cuda" in states:
        torch.cuda.set_rng_state(states["cuda"])
