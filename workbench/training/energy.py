"""The energy that a trial's devices use, where they report it."""

from collections.abc import Callable
from contextlib import suppress

import torch

from workbench.distributed import World


def energy_meter(device: torch.device, already: float, world: World) -> Callable[[], float]:
    """A function that returns joules: `already`, plus the energy of all processes' devices since this call.

    NVML counts the energy of a device, including whatever else runs on it. A device without a counter adds nothing.
    Every process must call this function and the returned one.
    """
    start = _counter(device)

    def used() -> float:
        now = _counter(device)
        since_start = now - start if now is not None and start is not None else 0.0
        return already + float(world.sum(torch.tensor(since_start, dtype=torch.float64, device=device)))

    return used


def _counter(device: torch.device) -> float | None:
    """Joules since the device's driver was loaded; None on a CPU, or if NVML does not report it."""
    if device.type != "cuda":
        return None
    import pynvml

    with suppress(pynvml.NVMLError):
        pynvml.nvmlInit()
        handle = pynvml.nvmlDeviceGetHandleByUUID(f"GPU-{torch.cuda.get_device_properties(device).uuid}")
        return float(pynvml.nvmlDeviceGetTotalEnergyConsumption(handle)) / 1000
    return None
