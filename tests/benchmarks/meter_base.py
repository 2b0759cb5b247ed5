"""Two training steps of preset `meter-base` at batch 2 with random weights and words: time a step, peak memory.

python tests/benchmarks/meter_base.py
"""

import resource
import time

import numpy as np
import torch
from torch import nn

from workbench.config.load import apply, read_preset
from workbench.config.schema import Settings
from workbench.data.text import END, PAD, SPECIAL, START
from workbench.model.vilta import ViLTA
from workbench.objectives.companions import Companions
from workbench.objectives.plan import plan_step
from workbench.objectives.step import losses
from workbench.training.loop import optimiser_for
from workbench.training.prepare import pick_device, precision

VOCABULARY = 50265  # roberta-base
BATCH = 2


def main() -> None:
    offline = {"data.tokeniser": None, "model.text.weights": None, "model.vision.pretrained": False}
    # The frozen teacher would be a second RoBERTa; what is measured is the model in training.
    settings = apply(
        Settings.model_validate(read_preset("meter-base")), offline | {"objectives.mlm.soft_labels": "none"}
    )
    device = pick_device()
    torch.manual_seed(0)
    model = ViLTA(settings.model, settings.data.image_size, VOCABULARY, settings.data.max_length).to(device).train()
    optimiser = optimiser_for(model, settings)
    rng = np.random.default_rng(0)
    token_ids = rng.integers(len(SPECIAL), VOCABULARY, size=(BATCH, settings.data.max_length))
    token_ids[:, 0], token_ids[:, 20], token_ids[:, 21:] = START, END, PAD
    side = settings.data.image_size
    pictures = torch.from_numpy(rng.integers(0, 256, size=(BATCH, 3, side, side), dtype=np.uint8)).to(device)
    companions = Companions(
        frozen=None,
        ema=None,
        queue=None,
        unigram=torch.zeros(VOCABULARY, device=device),
        synonyms=torch.arange(VOCABULARY, device=device)[:, None],
        word_starts=np.ones(VOCABULARY, dtype=bool),
    )
    print(f"{sum(parameter.numel() for parameter in model.parameters()) / 1e6:.0f} M parameters on {device}")
    for step in range(2):
        started = time.perf_counter()
        plan = plan_step(
            token_ids, None, settings.objectives, VOCABULARY, companions.word_starts, np.arange(BATCH), 0, 0, step
        )
        with precision(device):
            made = losses(model, pictures, plan.part(), settings.objectives, companions, alpha=0.0)
        optimiser.zero_grad(set_to_none=True)
        made["loss"].backward()
        nn.utils.clip_grad_norm_(model.parameters(), settings.optimisation.clip)
        optimiser.step()
        print(f"step {step + 1}: loss {made['loss'].item():.3f}, {time.perf_counter() - started:.1f} s")
        assert torch.isfinite(made["loss"])
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    print(f"peak memory of the process {peak:.1f} GiB")
    if device.type == "cuda":
        print(f"peak memory of the device {torch.cuda.max_memory_allocated() / 2**30:.1f} GiB")


if __name__ == "__main__":
    main()
