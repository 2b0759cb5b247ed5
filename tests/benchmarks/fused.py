"""`python -m tests.benchmarks.fused`: would K trials, trained as one program, take less time than one after another?

A step of `tiny` is whole but for its plan, which is drawn once: `losses` with given features of a frozen vision
encoder, backward, gradient clipped, AdamW. `separate` takes it with K models one after another. `vmap` takes it once
with the K models' parameters stacked: the losses through `functional_call` under `vmap`, and autograd, clipping and
the optimiser over what is stacked. `products` bounds what a step batched by hand could gain where most of its time
goes: the linear layers at their sizes in the step, forward and backward, as K `addmm` and as one `baddbmm`.

The trials differ in weights and images. They share one plan, with random negatives and hard labels: under `vmap`
nothing may depend on a trial's own tokens, neither a shape nor a branch, as the number of masked words and the
padding mask would. On a CPU there is one thread, and its own seconds are counted.
"""

import argparse
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call, stack_module_state
from torch.nn.attention import SDPBackend, sdpa_kernel

from tests.benchmarks.gpu import OFFLINE, PLAIN, large_model, measured, random_batch, stored_features
from workbench.config.schema import Settings
from workbench.data.text import Vocabulary
from workbench.model.vilta import ViLTA
from workbench.objectives.batch import BatchKey, BatchPart, draw_batch
from workbench.objectives.step import losses
from workbench.objectives.teachers import Teachers
from workbench.training.parallelize import Call
from workbench.training.prepare import pick_device, precision
from workbench.training.pretrain import optimiser_for, train_mode

Step = Callable[[int], Tensor]
VOCABULARY = Vocabulary.plain(209)  # as many tokens as in the scenes' captions
BATCH = 64
SEEN = {"optimisation.learning_rate": 1e-5, "model.text_pool": "mean"}  # many steps on one batch stay finite


def trials(count: int) -> tuple[Settings, list[ViLTA], Tensor, BatchPart, Teachers]:
    """So many models with weights of their own, features [K, B, N, C] of their images, and what they share."""
    models, features = [], []
    for _ in range(count):
        settings, model, teachers = large_model("tiny", OFFLINE | PLAIN | SEEN, VOCABULARY)
        for parameter in model.parameters():
            parameter.data.add_(0.01 * torch.randn_like(parameter))
        train_mode(model, settings)
        captions, images = random_batch(settings, VOCABULARY, BATCH, padded=True)
        models.append(model)
        features.append(stored_features(model, images))
    token_ids = VOCABULARY.trim(captions)
    plan = draw_batch(token_ids, None, settings.objectives, VOCABULARY, BatchKey(np.arange(BATCH), 0))
    return settings, models, torch.stack(features), plan.part(), teachers


def separate(settings: Settings, models: list[ViLTA], features: Tensor, part: BatchPart, teachers: Teachers) -> Step:
    """A step of each model, one after another; gives the sum of their losses."""
    optimisers = [optimiser_for(model, settings) for model in models]

    def step(_: int) -> Tensor:
        made = []
        for model, optimiser, images in zip(models, optimisers, features, strict=True):
            with precision(images.device, settings.optimisation.precision):
                loss = losses(model, images, part, settings.objectives, teachers, 0.0)["loss"]
            optimiser.zero_grad(set_to_none=True)
            loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), settings.optimisation.clip)
            optimiser.step()
            made.append(loss.detach())
        return torch.stack(made).sum()

    return step


def stacked(settings: Settings, models: list[ViLTA], features: Tensor, part: BatchPart, teachers: Teachers) -> Step:
    """The same steps as one, with parameters [K, ...]; gives the sum of their losses."""
    calls = [Call(model) for model in models]
    parameters, _ = stack_module_state(calls)
    names = {id(parameter): name for name, parameter in calls[0].named_parameters()}
    groups = [
        group | {"params": [parameters[names[id(each)]] for each in group["params"]]}
        for group in optimiser_for(models[0], settings).param_groups
    ]
    trained = [parameter for group in groups for parameter in group["params"]]
    optimiser = torch.optim.AdamW(groups)

    def forward(own: dict[str, Tensor], images: Tensor) -> Tensor:
        given = (losses, images, part, settings.objectives, teachers, 0.0)
        made: Tensor = functional_call(calls[0], own, given)["loss"]
        return made

    def step(_: int) -> Tensor:
        with precision(features.device, settings.optimisation.precision), batchable(features.device):
            loss: Tensor = torch.vmap(forward)(parameters, features).sum()
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        clip_each(trained, settings.optimisation.clip)
        optimiser.step()
        return loss.detach()

    return step


@contextmanager
def batchable(device: torch.device) -> Iterator[None]:
    """Attention in the forms that have a rule for `vmap`: on a CPU that is torch's own matrix products and softmax."""
    kinds = [SDPBackend.MATH] if device.type == "cpu" else [SDPBackend.EFFICIENT_ATTENTION, SDPBackend.MATH]
    with sdpa_kernel(kinds):
        yield


def clip_each(parameters: list[Tensor], most: float) -> None:
    """Bounds each trial's gradient norm over parameters [K, ...]."""
    gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
    norms = torch.stack([torch.linalg.vector_norm(each.flatten(1), dim=1) for each in gradients])
    factors = (most / (torch.linalg.vector_norm(norms, dim=0) + 1e-6)).clamp(max=1)
    for each in gradients:
        each.mul_(factors.view(-1, *[1] * (each.ndim - 1)))


def products(
    count: int, width: int = 64, rows: tuple[int, ...] = (2 * BATCH * 21, 2 * BATCH * 16)
) -> tuple[Step, Step]:
    """Linear maps of a layer of text and image tokens, forward and backward: K `addmm`, and one `baddbmm` each."""
    device, sizes = pick_device(), ((width, width), (width, 4 * width), (4 * width, width))
    shapes = [((n, i), (j, i), (1, j)) for n in rows for i, j in sizes]  # of input, weight and bias
    together = [[torch.randn(count, *each, device=device, requires_grad=True) for each in layer] for layer in shapes]
    alone = [
        [tensor[trial].detach().requires_grad_() for tensor in layer] for layer in together for trial in range(count)
    ]

    def whole(made: list[Tensor], layers: list[list[Tensor]]) -> Tensor:
        """Forward and backward are done with outputs as their own gradients."""
        torch.autograd.grad(made, [each for layer in layers for each in layer], [each.detach() for each in made])
        return made[0].detach().sum()

    def one_by_one(_: int) -> Tensor:
        return whole([F.linear(x, weight, bias[0]) for x, weight, bias in alone], alone)

    def grouped(_: int) -> Tensor:
        return whole([torch.baddbmm(bias, x, weight.transpose(1, 2)) for x, weight, bias in together], together)

    return one_by_one, grouped


def kept(step: Step) -> float:
    """MiB that forward passes keep for their backward passes."""
    sizes: dict[int, int] = {}

    def note(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        sizes[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        step(0)
    return sum(sizes.values()) / 2**20


def compare(name: str, first: Step, second: Step, steps: int, repeats: int) -> None:
    """Prints the time of the first over that of the second, by turns."""
    clock = time.perf_counter if torch.cuda.is_available() else time.process_time
    times = np.array([[measured(step, 0, steps, clock) for step in (first, second)] for _ in range(repeats)])
    ratios = times[:, 0] / times[:, 1]
    taken = " and ".join(f"{1000 * seconds:.1f}" for seconds in np.median(times, axis=0))
    print(f"{name}: {np.median(ratios):.2f} ({ratios.min():.2f} to {ratios.max():.2f}), {taken} ms", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, nargs="+", default=[2, 4, 8])
    parser.add_argument("--steps", type=int, default=3)
    parser.add_argument("--repeats", type=int, default=5)
    given = parser.parse_args()
    torch.set_num_threads(1)
    torch.set_flush_denormal(True)
    for count in given.trials:
        settings, models, features, part, teachers = trials(count)
        both = [make(settings, models, features, part, teachers) for make in (separate, stacked)]
        for _ in range(2):  # the second time after an update
            assert torch.allclose(both[0](0), both[1](0), rtol=1e-4)
        compare(f"{count} trials, separate / vmap", both[0], both[1], given.steps, given.repeats)
        one = separate(settings, models[:1], features[:1], part, teachers)  # of separate trials one at a time is held
        print(f"  kept for the backward pass: {kept(one):.0f} and {kept(both[1]):.0f} MiB", flush=True)
        alone, together = products(count)
        compare(f"{count} trials, products, addmm / baddbmm", alone, together, given.steps, given.repeats)


if __name__ == "__main__":
    main()
