"""The energy that a trial's devices use, where they tell it."""

from collections.abc import Callable
from contextlib import suppress

import torch

from workbench.distributed import World


def energy_meter(device: torch.device, already: float, world: World) -> Callable[[], float]:
    """A function that gives joules: `already`, and what the devices of all processes have used since this call, as NVML
    counts it; whatever else runs on them is in it. It stays at `already` where a device has no counter. Every process
    must call it."""
    start = _counter(device)

    def used() -> float:
        now = _counter(device)
        own = now - start if now is not None and start is not None else 0.0
        return already + float(world.sum(torch.tensor(own, dtype=torch.float64, device=device)))

    return used


def _counter(device: torch.device) -> float | None:
    """Joules since the device's driver was loaded; None on a CPU and where NVML does not say."""
    if device.type != "cuda":
        return None
    import pynvml

    with suppress(pynvml.NVMLError):
        pynvml.nvmlInit()
        handle = pynvml.nvmlDeviceGetHandleByUUID(f"GPU-{torch.cuda.get_device_properties(device).uuid}")
        return float(pynvml.nvmlDeviceGetTotalEnergyConsumption(handle)) / 1000
    return None
