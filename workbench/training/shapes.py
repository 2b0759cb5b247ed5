"""The cost of training a model, from the shapes of its tensors: no weights are read, and no memory is allocated."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, Final

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils.flop_counter import FlopCounterMode

from workbench.config.schema import Objectives, Settings
from workbench.config.settings import apply
from workbench.data.text import Vocabulary
from workbench.model.vilta import ViLTA

# The same model without its weights, and without dropout, which makes attention save more tensors on a CPU than a GPU.
WITHOUT_WEIGHTS: Final[dict[str, Any]] = {
    "data.tokeniser": None,
    "model.weights": None,
    "model.vision.pretrained": False,
    "model.vision.weights": None,
    "model.text.weights": None,
    "model.text.dropout": 0.0,
    "model.fusion.dropout": 0.0,
}
# Vocabulary sizes of well-known tokenisers, by prefix of their names.
VOCABULARIES: Final = {
    "roberta": 50265,
    "xlm-roberta": 250002,
    "bert": 30522,
    "distilbert": 30522,
    "deberta-v3": 128100,
}
ROWS = 3  # captions and images per counted forward pass
# A backward pass takes twice the operations of a forward pass; recomputing layers takes one more forward pass.
PASSES = 3


@dataclass(frozen=True)
class Shapes:
    """The sizes of a model and of its training step.

    `parameters`: their number; `trained`: of these, the trained ones; `language`: those of the language encoder.
    `tokens`, `channels`: the shape of an image's features. Per pair of a step: `saved_bytes` for the backward pass, and
    floating-point `operations` of the whole step.
    """

    parameters: int
    trained: int
    language: int
    tokens: int
    channels: int
    saved_bytes: int
    operations: float


def vocabulary_of(settings: Settings) -> int:
    """The vocabulary size of the tokeniser, by its name; for a tokeniser that is not trained yet, an upper bound."""
    name = (settings.data.tokeniser or "").rpartition("/")[2]
    return next((size for begin, size in VOCABULARIES.items() if name.startswith(begin)), settings.data.vocabulary)


def on_paper(settings: Settings) -> ViLTA:
    """The model on torch's `meta` device. Raises UserError if the model cannot be built.

    A pre-trained language encoder is replaced by a RoBERTa of the model's width, with the settings' layers and heads.
    """
    plain = apply(settings, WITHOUT_WEIGHTS)
    with torch.device("meta"):
        model = ViLTA(
            plain.model,
            plain.data.image_size,
            Vocabulary.plain(vocabulary_of(settings)),
            plain.data.max_length,
            plain.objectives.itc,
        )
    if settings.model.vision.frozen:
        model.vision.requires_grad_(False)
    return model


def outline(settings: Settings) -> Shapes:
    """The sizes of a model, without those of a step. Raises UserError like `on_paper`."""
    return outline_of(on_paper(settings))


def outline_of(model: ViLTA) -> Shapes:
    """The sizes of an existing model, without those of a step."""
    return Shapes(
        parameters=sum(p.numel() for p in model.parameters()),
        trained=sum(p.numel() for p in model.parameters() if p.requires_grad),
        language=sum(p.numel() for p in model.language.parameters()),
        tokens=model.vision.tokens,
        channels=model.vision.channels,
        saved_bytes=0,
        operations=0.0,
    )


def count(settings: Settings, low_precision: bool) -> Shapes:
    """The sizes of a training step with captions of maximum length; `low_precision`: under bfloat16 autocast.

    One forward pass runs with fake tensors: an image, a masked caption and a caption of the matching batch for each
    pair, as in `objectives.step`. Rewriting and teachers need no gradient and are not counted.
    """
    model = on_paper(settings)
    with FakeTensorMode(allow_non_fake_inputs=True):
        model.to_empty(device="cpu")
        with (
            _saved(model, settings.optimisation.activation_checkpointing) as saved,
            torch.autocast("cpu", dtype=torch.bfloat16, enabled=low_precision),
            FlopCounterMode(display=False) as operations,
        ):
            _forward(model, settings)
    passes = PASSES + settings.optimisation.activation_checkpointing
    return replace(
        outline_of(model), saved_bytes=saved.bytes() // ROWS, operations=passes * operations.get_total_flops() / ROWS
    )


def _forward(model: ViLTA, settings: Settings) -> list[Tensor]:
    side, length, width = settings.data.image_size, settings.data.max_length, model.vision.channels
    frozen = settings.model.vision.frozen
    if frozen:  # the features are stored
        features = torch.zeros(ROWS, model.vision.tokens, width)
    else:
        features = model.image_features(torch.zeros(ROWS, 3, side, side, dtype=torch.uint8))
    tokens = model.adapt_image(features)
    token_ids = torch.zeros(2 * ROWS, length, dtype=torch.long)
    # Not through `encode_text` and `fuse`, which look at the values of token ids.
    states = model.language.base_model(token_ids, attention_mask=None).last_hidden_state
    text = model.text_projection(states) + model.text_type
    both = torch.cat([tokens, tokens]) + model.image_type
    paired, first_only = slice(ROWS, None), model.image_pool == "first"
    fused, image = model.fusion(text, both, None, paired, first_only)
    masked = max(1, round(ROWS * length * settings.objectives.mlm.mask_ratio))
    labels = torch.zeros(masked, dtype=torch.long)
    words = [
        model.mlm_logits(fused.flatten(0, 1)[:masked]),
        model.predict_words(states.flatten(0, 1)[:masked]),
    ]
    losses = [nn.functional.cross_entropy(logits.float(), labels) for logits in words]
    pooled = torch.cat([model.text_pooler(fused[paired, 0]), model.image_pooler(image.mean(dim=1))], dim=-1)
    return [*losses, model.itm_logits(pooled).float().logsumexp(dim=-1).mean()]


class _Saved:
    """Counts the bytes of the tensors that are saved for a backward pass, each storage once.

    Parameters, and their copies in another precision, are excluded, since they do not grow with the batch. Of a layer
    that is recomputed only the inputs stay saved, plus all tensors of one such layer at a time.
    """

    def __init__(self, model: ViLTA) -> None:
        self.parameters = {p.untyped_storage()._cdata for p in model.parameters()}
        shapes = {tuple(p.shape) for p in model.parameters() if p.ndim == 2}
        self.copies = shapes | {shape[::-1] for shape in shapes}
        self.storages: dict[int, tuple[Any, int]] = {}  # holds the storage itself, so that its address is not reused
        self.layer = 0  # number of the layer that is recomputed, 0 outside
        self.inputs = 0

    def pack(self, tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage._cdata not in self.parameters and tuple(tensor.shape) not in self.copies:
            self.storages.setdefault(storage._cdata, (storage, self.layer))
        return tensor

    def enter(self, number: int, inputs: tuple[Any, ...]) -> None:
        self.layer = number
        self.inputs += sum(value.nbytes for value in inputs if isinstance(value, Tensor))

    def leave(self) -> None:
        self.layer = 0

    def bytes(self) -> int:
        of_layers: dict[int, int] = {}
        for storage, layer in self.storages.values():
            of_layers[layer] = of_layers.get(layer, 0) + storage.nbytes()
        outside = of_layers.pop(0, 0)
        return outside + self.inputs + max(of_layers.values(), default=0)


@contextmanager
def _saved(model: ViLTA, recompute: bool) -> Iterator[_Saved]:
    saved = _Saved(model)
    hooks = []
    for number, layer in enumerate(model.layers() if recompute else (), start=1):
        hooks += [
            layer.register_forward_pre_hook(lambda _, inputs, number=number: saved.enter(number, inputs)),
            layer.register_forward_hook(lambda *_: saved.leave()),
        ]
    with torch.autograd.graph.saved_tensors_hooks(saved.pack, lambda tensor: tensor):
        yield saved
    for hook in hooks:
        hook.remove()


def copies_of(objectives: Objectives) -> tuple[bool, bool]:
    """Whether training needs a frozen language encoder, and a momentum model, as `objectives.teachers` makes them."""
    mlm, itm = objectives.mlm, objectives.itm
    written, words = itm.negatives == "synthesized", {mlm.mask_words, itm.synthesis_words}
    by_frozen = itm.generator == "frozen" or itm.false_negative_filter == "teacher"
    frozen = mlm.soft_labels == "frozen_lm" or "surprising" in words or (written and by_frozen)
    by_ema = written and itm.generator == "ema"
    return frozen, mlm.soft_labels == "ema" or by_ema or "salient" in words or objectives.itc.weight > 0


def memory(settings: Settings, shapes: Shapes, low_precision: bool, processes: int = 1) -> dict[str, int]:
    """The bytes on each device during a step, by use. Only `activations` depend on the batch size."""
    optimisation, objectives = settings.optimisation, settings.objectives
    parts = processes if optimisation.sharding == "fsdp" else 1
    frozen, ema = copies_of(objectives)
    queue = 2 * objectives.itc.queue * objectives.itc.width if objectives.itc.weight > 0 else 0
    return {
        "weights": 4 * shapes.parameters // parts,
        "gradients": 4 * shapes.trained // parts,
        "optimiser": 8 * shapes.trained // parts,
        "copies": 4 * (shapes.language * frozen + shapes.parameters * ema + queue),
        "low_precision_weights": 2 * shapes.parameters * low_precision,
        "activations": shapes.saved_bytes * -(-optimisation.batch_size // (optimisation.micro_batches * processes)),
    }


def state_bytes(settings: Settings, shapes: Shapes) -> int:
    """The bytes of a saved training state: model, two moments of trained parameters, momentum model, and queue."""
    _, ema = copies_of(settings.objectives)
    itc = settings.objectives.itc
    queue = 2 * itc.queue * itc.width if itc.weight > 0 else 0
    return 4 * (shapes.parameters * (1 + ema) + 2 * shapes.trained + queue)
