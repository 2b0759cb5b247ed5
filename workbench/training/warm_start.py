"""The warm start that all trials share: both encoders, pre-trained once on the training pairs, without the fusion.

It replaces the pre-trained encoders that the paper starts from. A frozen copy of the resulting language encoder is the
teacher of the soft labels.
"""

from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from workbench.config.schema import Phase, Settings
from workbench.data import cache
from workbench.data.augment import resize
from workbench.data.corpus import Corpus
from workbench.data.features import Features
from workbench.data.loader import Order
from workbench.data.masking import hide_tokens
from workbench.distributed import ALONE
from workbench.errors import UserError
from workbench.model.language import OF_HEADS
from workbench.model.shipped import OF_ENCODERS, Shipped
from workbench.model.similarity import aligned_similarity
from workbench.model.vilta import ViLTA
from workbench.model.weights import at_resolution, file_digest, text_files, weights_file
from workbench.objectives.losses import contrastive_loss, words_loss
from workbench.randomness import generator, key
from workbench.training.loop import Hooks, Losses, Training, backward, fit
from workbench.training.schedule import adamw, every
from workbench.training.state import TrainState, remove, restore, save

SAVED_EVERY = 60.0  # seconds
SECONDS = "seconds"  # the file next to the weights with the duration of their training
VERSION = 2  # increment whenever a change alters the warm start's weights
PHASE_VERSION = 1  # the same for the weights of a fused start


class Alignment(nn.Module):
    """The parts that only the warm start needs: the scale of the contrastive loss, and a word classifier."""

    def __init__(self, channels: int, vocabulary: int) -> None:
        super().__init__()
        self.words = nn.Linear(channels, vocabulary)
        nn.init.constant_(self.words.bias, -5.0)  # most words are absent from most captions
        self.log_scale = nn.Parameter(torch.tensor(2.3))


def warm_start(
    settings: Settings,
    corpus: Corpus,
    device: torch.device,
    cache_dir: Path,
    hooks: Hooks,
    features: Features | None = None,
) -> dict[str, Tensor]:
    """The model's starting weights, trained on first use and cached by content.

    `features` float16 [N, T, C]: the training images' stored features, if the vision encoder is not trained. Raises
    Stopped, after saving the state next to the cache's entry, and Diverged.
    """
    home = start_homes(settings, corpus.fingerprint, cache_dir)[0]
    return trained_once(home, partial(_train, settings, corpus, device, features, hooks))


def trained_once(home: Path, train: Callable[[Path], tuple[dict[str, Tensor], float]]) -> dict[str, Tensor]:
    """The weights that `train(checkpoint)` returns, trained on first use and cached in the folder `home`.

    `train` also returns its seconds, which are stored, too. The checkpoint is next to `home` until the weights are
    complete.
    """
    checkpoint = home.with_name(f"{home.name}-state.pt")

    def make(target: Path) -> None:
        weights, seconds = train(checkpoint)
        (target / SECONDS).write_text(f"{seconds:.0f}")
        save_file({name: tensor.contiguous().cpu() for name, tensor in weights.items()}, target / "model.safetensors")

    cache.entry(home, make)
    remove(checkpoint)
    return load_file(home / "model.safetensors")


def start_fingerprint(settings: Settings, data: str, shipped: Shipped | None = None) -> str:
    """The fingerprint of the weights that trials of these settings start from, without training them.

    `data`: the fingerprint of their data. `shipped`: the packaged encoders, if trials start from them. Raises UserError
    if a file of weights in the settings is missing.
    """
    if shipped:
        warm = f"package-{key(shipped.digest, data, *([] if settings.warm_start.fused else ['encoders'])):016x}"
    else:
        warm = phase_names(settings, data)[-1]
    suffix, file = _name_suffix(settings), settings.model.weights
    if not file:
        return warm + suffix
    path = Path(file).expanduser()
    if not path.is_file():
        raise UserError(f"`model.weights`: {path} cannot be read (there is no such file); give a local file.")
    return f"start-{key(warm, file_digest(path)):016x}{suffix}"


def _recipe(settings: Settings, data: str) -> str:
    """The name of a warm start; the fusion is not part of it, so that arms that differ in the fusion share it."""
    recipe = (
        settings.model.model_dump_json(exclude={"fusion", "mlm_head", "weights", "text_pool"}),
        settings.warm_start.model_dump_json(exclude={"source", "fusion", "fused"}),
        data,
        vision_digest(settings),
    )
    return f"warm-{key(VERSION, *recipe):016x}"


def phases(settings: Settings) -> tuple[Phase, ...]:
    """The phases of the fused start; none if trials do not start from one."""
    return settings.warm_start.fusion if settings.warm_start.fused else ()


def start_homes(settings: Settings, data: str, cache_dir: Path) -> list[Path]:
    """The cache folders of the encoders' start, and of the fused start after each of its phases."""
    suffix = _name_suffix(settings)
    return [cache_dir / f"{name}{suffix}" for name in phase_names(settings, data)]


def phase_names(settings: Settings, data: str) -> list[str]:
    """The names of the encoders' start, and of the fused start after each of its phases.

    `data`: the fingerprint of their data.
    """
    names, fusion = [_recipe(settings, data)], settings.model.fusion.model_dump_json()
    for phase in phases(settings):
        names.append(f"fused-{key(PHASE_VERSION, names[-1], fusion, phase.model_dump_json()):016x}")
    return names


def _name_suffix(settings: Settings) -> str:
    """The suffix of a start's name: a digest of the files of local text weights, and the side of prepared images.

    The fingerprint of prepared data does not include the side, since they are prepared for any side.
    """
    where = settings.model.text.weights
    files = text_files(where) if where else []
    text = f"-{key(*(f'{path.name} {file_digest(path)}' for path in files)):016x}" if files else ""
    return f"{text}-{settings.data.image_size}px" if settings.data.source == "prepared" else text


def vision_digest(settings: Settings) -> str:
    """The digest of the vision encoder's weights file, so that different files of the same name are different
    starts."""
    where = settings.model.vision.weights
    return file_digest(weights_file(where)) if where else ""


def new_model(settings: Settings, corpus: Corpus, seed: int) -> ViLTA:
    """A new model, initialised only from `seed`."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(key("initialisation", seed))
        return ViLTA(
            settings.model,
            settings.data.image_size,
            corpus.tokeniser.vocabulary,
            settings.data.max_length,
            settings.objectives.itc,
        )


def start_weights(settings: Settings, corpus: Corpus, warm: dict[str, Tensor], path: Path) -> dict[str, Tensor]:
    """The weights `warm`, in which tensors of the file `model.weights` replace those of the same name.

    Raises UserError if the file is missing, damaged, or from a model of other sizes.
    """
    try:
        loaded = load_file(path)
    except (OSError, SafetensorError) as error:
        raise UserError(f"`model.weights`: {path} cannot be read ({error}).") from error
    model = new_model(settings, corpus, 0)
    wanted = model.state_dict()
    loaded = at_resolution(loaded, wanted, model.vision.prefix_tokens)
    for name in filter(lambda name: name.endswith("position_embeddings.weight"), loaded.keys() & wanted.keys()):
        loaded[name] = loaded[name][: len(wanted[name])]  # shorter captions need fewer of them
    for name in sorted(wanted.keys() | loaded.keys()):
        if name not in wanted or (
            name not in loaded and not name.startswith(tuple(f"language.{head}" for head in OF_HEADS))
        ):
            raise UserError(f"`model.weights`: {path} belongs to another model: only one of the two has `{name}`.")
        if name in loaded and loaded[name].shape != wanted[name].shape:
            sizes = f"{list(loaded[name].shape)} there, {list(wanted[name].shape)} here"
            raise UserError(f"`model.weights`: {path} belongs to a model of other sizes: `{name}` is {sizes}.")
    return warm | loaded


def handed_on(model: ViLTA, names: tuple[str, ...] = OF_ENCODERS) -> dict[str, Tensor]:
    """The tensors of a start that trials use, by the prefixes of their names.

    For a warm start these are the encoders and the projections that align them, without the fusion and its heads.
    """
    # Cloned, because the language model's head shares storage with its embeddings.
    return {name: tensor.clone() for name, tensor in model.state_dict().items() if name.startswith(names)}


class _Aligned(nn.Module):
    """All modules that a warm start trains, as one module to save."""

    def __init__(self, model: ViLTA, align: Alignment) -> None:
        super().__init__()
        self.model, self.align = model, align


def _train(
    settings: Settings, corpus: Corpus, device: torch.device, stored: Features | None, hooks: Hooks, checkpoint: Path
) -> tuple[dict[str, Tensor], float]:
    """Trains the encoders -> the weights, and the seconds of training.

    Resumes from `checkpoint` if there is one; it is removed when the weights are complete.
    """
    config, vocabulary = settings.warm_start, corpus.tokeniser.vocabulary
    model = new_model(settings, corpus, config.seed).to(device).train()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(key("alignment", config.seed))
        align = Alignment(model.vision.channels, vocabulary.size).to(device)
    groups = [
        ([*model.vision.parameters(), *align.words.parameters()], config.vision_learning_rate),
        (
            [p for part in (model.language, model.image_adapter, model.text_projection) for p in part.parameters()]
            + [align.log_scale],
            config.learning_rate,
        ),
    ]
    if not config.train_vision:
        model.vision.requires_grad_(False).eval()
    state = TrainState(_Aligned(model, align), adamw(groups, config.weight_decay))
    restore(state, checkpoint, hooks.say)
    order = Order(corpus.train.shares, config.batch_size, config.seed)

    def step_losses(step: int) -> Losses:
        torch.manual_seed(key("warm start", config.seed, step))
        epoch, rows = order.at(step)
        ids = vocabulary.trim(corpus.train.texts(rows, config.seed, epoch))
        token_ids = torch.from_numpy(ids).to(device)
        if stored is None:
            images = torch.from_numpy(np.array(corpus.train.images[rows])).to(device)
            features = model.image_features(resize(images, settings.data.image_size))
        else:
            features = torch.from_numpy(stored[rows]).to(device).float()
        losses = {
            "words": config.words_weight * words_loss(align.words(features).amax(dim=1), token_ids, model.ordinary)
        }
        if step % config.text_every == 0:
            hidden = hide_tokens(ids, config.mask_ratio, generator("warm start masks", config.seed, step), vocabulary)
            positions = hidden.positions.to(device)
            clean, masked = model.encode_text(torch.cat([token_ids, hidden.token_ids.to(device)])).chunk(2)
            similarity = aligned_similarity(model, model.adapt_image(features), clean, token_ids)
            scale = align.log_scale.exp().clamp(max=100)
            losses["contrast"] = config.contrast_weight * contrastive_loss(similarity, scale)
            losses["mlm"] = config.mlm_weight * F.cross_entropy(
                model.predict_words(masked[positions]), token_ids[positions]
            )
        return {"loss": torch.stack(list(losses.values())).sum()} | losses

    def clip() -> Tensor:
        # A step without text leaves a group without gradients, for which torch returns a norm of 0 on the CPU.
        learning = [parameters for parameters, _ in groups if any(p.grad is not None for p in parameters)]
        return torch.stack([nn.utils.clip_grad_norm_(parameters, 5.0) for parameters in learning]).norm()

    training = Training(
        config.steps,
        0.1,
        lambda step: backward(state.model, [partial(step_losses, step)], ALONE),
        clip,
        lambda: save(state, checkpoint, persist=hooks.persist) if state.step < config.steps else None,
        due=every(SAVED_EVERY),
    )
    for _ in fit(state, training, hooks):
        pass
    return handed_on(model), state.seconds
