"""The schema of experiment files. `Settings` defines a trial; `Experiment` defines a question over many trials."""

import math
import os
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, model_validator
from pydantic_core import PydanticCustomError

IRRELEVANT = {"optimisation": {"checkpoint_every"}, "data": {"workers"}}  # settings that cannot change a result
# Settings that were added later, each with the value that leaves a trial as it was before. At this value a setting is
# left out of the hashes, so that trials that finished earlier are still recognised.
LATER: dict[str, Any] = {
    "objectives.mlm.mask_words": "any",
    "objectives.itm.synthesis_words": "any",
    "objectives.itm.synthesis_rounds": 1,
    "warm_start.source": "train",
    "warm_start.fusion": (),
    "warm_start.fused": True,
    "model.text_pool": "first",
    "evaluation.suites": None,
    "data.foils": "words",
    "optimisation.deterministic": False,
}


def _no_boolean(value: Any) -> Any:
    """Rejects booleans: YAML reads `yes` and `on` as true, which pydantic would convert to 1."""
    if isinstance(value, bool):
        raise PydanticCustomError(
            "number_type", "Input should be a number; YAML reads yes, no, on and off as true and false"
        )
    return value


def _one_zero(value: float) -> float:
    return value + 0.0  # -0.0 equals 0.0 and must have the same hash


def _in_order(options: dict[str, Any]) -> dict[str, Any]:
    """Sorts keyword arguments, whose order has no meaning."""
    for name, value in options.items():
        if isinstance(value, float) and not math.isfinite(value):
            raise PydanticCustomError("finite_number", "`{name}` should be a finite number", {"name": name})
    return dict(sorted(options.items()))


Number = Annotated[float, BeforeValidator(_no_boolean), AfterValidator(_one_zero)]
Whole = Annotated[int, BeforeValidator(_no_boolean)]
Share = Annotated[Number, Field(ge=0.0, le=1.0)]
Positive = Annotated[Number, Field(gt=0.0)]
Count = Annotated[Whole, Field(ge=1)]
Words = Literal["any", "content", "surprising", "salient"]
Options = Annotated[dict[str, Any], AfterValidator(_in_order)]


class Block(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=False, validate_default=True, allow_inf_nan=False)


def absolute(path: str) -> str:
    """The absolute form of `~` and relative paths; an absolute or empty path as it is."""
    expanded = os.path.expanduser(path)
    return os.path.abspath(expanded) if expanded and not os.path.isabs(expanded) else expanded


def flattened(settings: dict[str, Any], before: str = "") -> dict[str, Any]:
    """Nested settings by dotted keys; an empty table counts as a value."""
    flat: dict[str, Any] = {}
    for name, value in settings.items():
        dotted = f"{before}{name}"
        flat |= flattened(value, f"{dotted}.") if isinstance(value, dict) and value else {dotted: value}
    return flat


class Data(Block):
    """Image-text pairs and how they are divided into splits."""

    source: Literal["scenes", "folder", "prepared"] = Field(
        "scenes", description="rendered scenes; a folder of captioned images; corpora of `wb data prepare`"
    )
    path: str | None = Field(None, description="folder of captioned images (source: folder)")
    mix: dict[str, Annotated[Number, Field(gt=0)]] = Field(
        default_factory=dict,
        description=(
            "source: prepared; names of `wb data prepare`, or folders, each with how often an epoch shows its images"
        ),
    )
    augment: Literal["none", "crop", "rand_augment"] = Field(
        "none",
        description=(
            "training images: `crop`, a random part of at least half of the area; `rand_augment`, the same and two of"
            " ALBEF's operations; neither mirrors nor recolours, since captions name sides and colours"
        ),
    )
    workers: Annotated[Whole, Field(ge=0)] | None = Field(
        None,
        description=(
            "processes that read ahead; by default one thread for stored features, which stay on a GPU if they fit,"
            " else up to four processes"
        ),
    )
    image_size: Annotated[Whole, Field(ge=16, le=1024)] = Field(
        64, description="side of the images that the model reads, in pixels"
    )
    train_pairs: Count = Field(20480, description="maximum number of training pairs")
    eval_pairs: Count = Field(512, description="maximum number of pairs in each held-out split")
    most_things: Annotated[Whole, Field(ge=2, le=3)] = Field(3, description="scenes: largest number of objects")
    caption_noise: Share = Field(
        0.0,
        description=("rate of wrong or missing words in the captions that trials train on; the warm start has none"),
    )
    foils: Literal["words", "spacy", "none"] = Field(
        "words",
        description=(
            "source: folder, prepared; captions that are false in one fact, made by rules for English; `spacy`: only"
            " from words that spaCy also tags as nouns and adjectives; `none`: for captions in other languages"
        ),
    )
    exclude: str | None = Field(None, description="folder: skip files whose path matches this regular expression")
    max_length: Annotated[Whole, Field(ge=8, le=512)] = Field(28, description="tokens; longer captions are cut")
    vocabulary: Annotated[Whole, Field(ge=64)] = Field(
        2000, description="maximum size of a tokeniser that is trained on the captions"
    )
    tokeniser: str | None = Field(
        None,
        description=(
            "folder or hub name of the tokeniser of `model.text.weights`; without it, one is trained on the captions"
        ),
    )
    seed: Whole = Field(
        0, description="of the scenes, and of splits that are drawn; seeds of trials do not change the data"
    )

    @model_validator(mode="before")
    @classmethod
    def _one_name_a_folder(cls, values: Any) -> Any:
        """Makes the path of a folder absolute, so that it is the same however it is written, and for every worker. An
        absolute path stays as it is written, since it is in the hashes of finished cells."""
        if isinstance(values, dict) and values.get("source") == "folder" and isinstance(values.get("path"), str):
            return values | {"path": absolute(values["path"])}
        return values

    @model_validator(mode="after")
    def _source_is_whole(self) -> "Data":
        if self.source == "folder" and not self.path:
            raise ValueError("`data.path` is needed with `source: folder`: the folder that holds the images")
        if (self.source == "prepared") != bool(self.mix):
            raise ValueError(
                "`data.mix` and `source: prepared` go together; write mix: {NAME: 1.0} with a name of `wb data prepare`"
            )
        return self


class Vision(Block):
    """A timm model, cut at one of its feature stages: [B, tokens, channels]."""

    name: str = Field("test_byobnet", description="any image model of timm")
    tokens: Literal["grid", "final"] = Field(
        "grid",
        description=(
            "`grid`: the places of a feature stage; `final`: a transformer's tokens after its last norm, the class "
            "token first where it has one"
        ),
    )
    stage: Annotated[Whole, Field(ge=0, le=63)] = Field(
        3, description="index of the timm feature stage; with `tokens: final`, of the last block that is kept"
    )
    options: Options = Field(default_factory=dict, description="keyword arguments of timm.create_model")
    pretrained: bool = Field(False, description="timm's own weights, from its hub or its local cache")
    weights: str | None = Field(
        None,
        description="weights from this file (.safetensors, .pth), or `efficientnet-lite0`: ImageNet, extra `imagenet`",
    )
    frozen: bool = Field(False, description="not trained after the warm start; features are computed once")


class Text(Block):
    """A language encoder with its language-model head: a new one with RoBERTa's architecture, or a pre-trained BERT,
    RoBERTa, XLM-R, DistilBERT, DeBERTa-v2 (or v3) or ModernBERT, whose width may differ from the model's."""

    layers: Count = Field(2, description="number of layers; of a pre-trained encoder, the first ones are used")
    heads: Count = Field(4, description="attention heads of a new encoder")
    dropout: Share = Field(0.0, description="in the layers of the encoder, also of a pre-trained one")
    weights: str | None = Field(
        None,
        description=(
            "folder or hub name of a pre-trained model, such as `roberta-base`; `data.tokeniser` must be its tokeniser"
        ),
    )


class Fusion(Block):
    """Layers that join the two streams. `co_attention` (METER): each layer pair reads the previous states of both;
    `merged`: one stream of text and image tokens with self-attention."""

    kind: Literal["co_attention", "merged"] = Field(
        "co_attention", description="two streams that read each other, or one stream"
    )
    layers: Count = Field(2, description="of each stream")
    heads: Count = Field(4, description="attention heads of a layer")
    mlp_ratio: Positive = Field(4.0, description="width of the feed-forward part, in widths of the model")
    dropout: Share = Field(0.0, description="in attention and feed-forward parts")
    norm_epsilon: Positive = Field(1e-5, description="added to the variance in layer norms")
    initialisation: Literal["similarity", "bert"] = Field(
        "similarity",
        description=(
            "`similarity`: attention between the streams starts with equal query and key, so that aligned tokens "
            "attend to each other; `bert`: normal weights with std 0.02, as in METER for everything except the encoders"
        ),
    )


class Model(Block):
    """The model. `tiny` differs from METER because its vision encoder is a convolutional grid: image tokens are
    normalised and get positions, which a grid lacks, and are averaged, because there is no class token."""

    width: Annotated[Whole, Field(ge=8)] = Field(64, description="of the fusion, and of a new language encoder")
    weights: str | None = Field(
        None, description="weights of the whole model to start from: a .safetensors of `wb import-meter` or of a trial"
    )
    mlm_head: Literal["fresh", "language"] = Field(
        "fresh", description="start of the fused MLM head: random (METER), or a copy of the language encoder's head"
    )
    image_norm: bool = Field(True, description="a layer norm over the image tokens, before they enter the fusion")
    image_positions: bool = Field(True, description="row and column positions added to the tokens of a grid")
    image_pool: Literal["mean", "first"] = Field(
        "mean", description="how the image side is pooled for ITM: the mean of its tokens, or its first token"
    )
    text_pool: Literal["mean", "first"] = Field(
        "first",
        description="how the text side is pooled for ITM: its first token (METER), or the mean of its tokens",
    )
    vision: Vision = Vision()
    text: Text = Text()
    fusion: Fusion = Fusion()

    @model_validator(mode="after")
    def _positions_need_a_grid(self) -> "Model":
        if self.image_positions and self.vision.tokens == "final":
            raise ValueError(
                "`model.image_positions: true` needs a grid; set it to false with `model.vision.tokens: final`"
            )
        return self


class Phase(Block):
    """A phase of a fused start: masked language modelling that trains the language encoder and the fusion, with a fixed
    vision encoder."""

    steps: Count = Field(description="updates of this phase")
    words: Literal["all", "details", "relations"] = Field(
        "all",
        description=(
            "which words are masked or rewritten; `details`: those of size, texture and relation; `relations`: only"
            " `left`, `above` and the like"
        ),
    )
    replaced: Annotated[Number, Field(ge=0, lt=1)] = Field(
        0.0,
        description=(
            "share of these words that the language encoder rewrites; the fusion learns to detect them (ELECTRA)"
        ),
    )
    learning_rate: Positive = Field(2e-3, description="highest rate")
    batch_size: Annotated[Whole, Field(ge=2)] = Field(64, description="pairs of a step")


class WarmStart(Block):
    """Pre-training of the two separate encoders, done once and shared by all trials: image-text contrast, the caption's
    words as classes of its image, and text-only masked language modelling. With 0 steps the encoders start as they are.
    If `fusion` has phases, these then train the language encoder and the fusion together."""

    source: Literal["package", "train"] = Field(
        "train",
        description=(
            "`package`: the encoders in the package, for which the steps and rates here do not matter; `train`:"
            " trained on first use"
        ),
    )
    steps: Annotated[Whole, Field(ge=0)] = Field(3400, description="of the encoders; 0: they start as they are")
    text_every: Count = Field(
        2, description="the language encoder trains in every N-th step; the vision encoder needs more steps"
    )
    batch_size: Annotated[Whole, Field(ge=2)] = Field(32, description="pairs of a step")
    vision_learning_rate: Positive = Field(6e-3, description="highest rate of the vision encoder")
    learning_rate: Positive = Field(3e-3, description="highest rate of all else")
    weight_decay: Annotated[Number, Field(ge=0)] = Field(0.05, description="of AdamW")
    train_vision: bool = Field(True, description="false: the vision encoder keeps its pre-trained weights")
    mask_ratio: Annotated[Number, Field(gt=0, lt=1)] = Field(0.25, description="share of the words that are masked")
    contrast_weight: Annotated[Number, Field(ge=0)] = Field(0.1, description="of image-text contrast in the loss")
    words_weight: Annotated[Number, Field(ge=0)] = Field(
        1.0, description="of the caption's words as classes of its image, in the loss"
    )
    mlm_weight: Annotated[Number, Field(ge=0)] = Field(1.0, description="of masked language modelling in the loss")
    seed: Whole = Field(0, description="of the warm start; all trials share it")
    fusion: tuple[Phase, ...] = Field((), description="phases of a fused start, one after another")
    fused: bool = Field(
        True,
        description="false: trials start from the encoders alone, with a fresh fusion, even if there is a fused start",
    )


class Mlm(Block):
    """Masked language modelling. Soft labels: cross-distillation from the frozen language encoder (our reading)."""

    weight: Annotated[Number, Field(ge=0)] = Field(1.0, description="of masked language modelling in the loss")
    mask_ratio: Annotated[Number, Field(gt=0, lt=1)] = Field(0.15, description="share of the words that are masked")
    mask_words: Words = Field(
        "any", description="which words are masked, as in `itm.synthesis_words`; `mask_ratio` is a share of these words"
    )
    whole_word: bool = Field(False, description="mask all tokens of a word or none; `mask_ratio` then counts words")
    soft_labels: Literal["none", "frozen_lm", "ema", "smoothing", "unigram"] = Field(
        "frozen_lm",
        description=(
            "teacher: the frozen language encoder (ViLTA), the momentum model, which sees the image (ALBEF), or a"
            " control that does not see the caption: uniform distribution, word frequencies"
        ),
    )
    temperature: Positive = Field(1.0, description="T of the soft term, for teacher and student")
    alpha: Share = Field(0.5, description="weight of the soft term; 0 is exactly the one-hot loss")
    alpha_ramp: Share = Field(0.0, description="share of the steps over which alpha rises from 0")
    teacher_input: Literal["masked", "full"] = Field("masked", description="the caption that the teacher reads")
    top_k: Count | None = Field(None, description="keep the teacher's k likeliest words, renormalised")


class Itm(Block):
    """Image-text matching: half of a batch keeps image and caption, the other half is turned into negatives."""

    weight: Annotated[Number, Field(ge=0)] = Field(1.0, description="of image-text matching in the loss")
    negatives: Literal["random_image", "in_batch_hard", "synthesized", "foils"] = Field(
        "synthesized",
        description="kind of the hard negatives; `foils`, captions that are false in one fact, is the positive control",
    )
    hard_ratio: Share = Field(0.5, description="share of the negatives that are hard; the rest get a random image")
    similarity_temperature: Positive = Field(
        0.07,
        description=(
            "in_batch_hard: other pairs are drawn by softmax(similarity / temperature); with `itc`, its similarity"
        ),
    )
    generator: Literal["current", "frozen", "ema", "unigram"] = Field(
        "current",
        description="synthesized: the model that rewrites words: the language encoder in training, frozen, or averaged",
    )
    synthesis_mask_ratio: Annotated[Number, Field(gt=0, le=1)] = Field(
        0.25, description="share of a caption's eligible tokens that the language encoder rewrites, at least one"
    )
    synthesis_words: Words = Field(
        "content",
        description=(
            "which words are rewritten: `content`, those of open classes (nouns, adjectives, verbs, numbers);"
            " `surprising`, in proportion to the entropy of the warm-started language encoder where the word is masked;"
            " `salient`, in proportion to how much the image helps the momentum model to predict the word"
        ),
    )
    synthesis_rounds: Count = Field(
        1, description="number of rounds in which words are sampled, each conditioned on the words of earlier rounds"
    )
    sampling_temperature: Positive = Field(
        1.0, description="synthesized: words are drawn by softmax(logits / temperature)"
    )
    top_k: Count | None = Field(None, description="sample from the k likeliest words only")
    top_p: Annotated[Number, Field(gt=0, le=1)] = Field(
        1.0, description="sample from the likeliest words up to this mass"
    )
    false_negative_filter: Literal["none", "synonyms", "teacher"] = Field(
        "synonyms",
        description=(
            "`synonyms`: the lexicon's synonyms of the original word are never sampled; `teacher`: a word is reverted"
            " if the frozen language encoder finds it at least `filter_ratio` times as likely as the original"
        ),
    )
    filter_ratio: Positive = Field(
        1.0, description="`false_negative_filter: teacher`: the ratio at which a word is reverted"
    )


class Itc(Block):
    """Image-text contrast of the unfused encoders against a queue of the momentum model's features (ALBEF)."""

    weight: Annotated[Number, Field(ge=0)] = Field(0.0, description="0 disables it (METER, our reading of ViLTA)")
    width: Count = Field(64, description="dimension of the space in which images and captions are compared")
    queue: Annotated[Whole, Field(ge=0)] = Field(1024, description="features of past pairs that are kept as negatives")
    temperature: Positive = Field(0.07, description="initial value; it is learned, within [0.001, 0.5]")
    alpha: Share = Field(0.0, description="weight of the momentum model's similarities as soft targets")


class Generator(Block):
    mlm_weight: Annotated[Number, Field(ge=0)] = Field(
        0.5, description="weight of text-only MLM, which preserves the language encoder's ability to generate"
    )


class Objectives(Block):
    mlm: Mlm = Mlm()
    itm: Itm = Itm()
    itc: Itc = Itc()
    generator: Generator = Generator()
    ema_decay: Annotated[Number, Field(ge=0, lt=1)] = Field(0.995, description="of the momentum model, per step")


class Optimisation(Block):
    steps: Count = Field(400, description="updates of a trial")
    batch_size: Annotated[Whole, Field(ge=4)] = Field(
        64, description="pairs of a step, over all processes of the trial"
    )
    learning_rate: Positive = Field(2e-3, description="highest rate")
    encoder_rate: Share = Field(1.0, description="factor on the learning rate of the two encoders")
    weight_decay: Annotated[Number, Field(ge=0)] = Field(0.02, description="of AdamW")
    warmup: Share = Field(0.1, description="share of the steps with a rising learning rate, then linear decay to 0")
    clip: Positive = Field(1.0, description="largest norm of the gradient")
    checkpoint_every: Count = Field(100, description="steps between saved train states")
    micro_batches: Count = Field(
        1,
        description=(
            "number of parts of the batch over which gradients are accumulated; in-batch negatives and ITC's keys come"
            " from one part, everything else is unchanged"
        ),
    )
    length_buckets: Count = Field(
        1, description="number of groups of captions by length; each group is cut to its longest caption"
    )
    activation_checkpointing: bool = Field(False, description="recompute layers in the backward pass, to save memory")
    compile: bool = Field(False, description="torch.compile for the encoders and the fusion")
    precision: Literal["auto", "bfloat16", "float32"] = Field("auto", description="`auto`: bfloat16 autocast on a GPU")
    deterministic: bool = Field(
        False, description="on a GPU: kernels with bit-identical results, which are slower for large models"
    )
    sharding: Literal["ddp", "fsdp"] = Field(
        "ddp", description="with several processes: each has the whole model, or a part of it (FSDP2)"
    )


Path = Annotated[str, AfterValidator(absolute), Field(min_length=1)]


def _several(value: Any) -> Any:
    return (value,) if isinstance(value, str) else value


class SuiteFiles(Block):
    """A compositional suite in its published files, as for `wb eval`."""

    annotations: Path = Field(description="folder of the suite's files")
    images: Annotated[tuple[Path, ...], BeforeValidator(_several), Field(min_length=1)] = Field(
        description="folder of the suite's images, or several"
    )
    limit: Count | None = Field(
        None,
        description="number of items of each kind, the first ones; metrics are logged under a name with this number",
    )
    tagger: Literal["words", "spacy"] = Field("words", description="aro: how nouns and adjectives are found")
    max_num: Annotated[Whole, Field(ge=0)] = Field(
        2000, description="vl_checklist: number of texts per list; 0 for all"
    )


class RetrievalSuite(Block):
    """Retrieval on the test split, in Karpathy's protocol."""

    shortlist: Annotated[Whole, Field(ge=10)] = Field(128, description="number of candidates per query that ITM ranks")
    limit: Count | None = Field(
        None, description="number of images, the first ones; metrics are logged under a name with this number"
    )


class TaskFiles(Block):
    """A downstream task on which a copy of the trial's model is fine-tuned, as with `wb finetune`, at the trial's image
    size."""

    annotations: Path | None = Field(None, description="folder of the task's files; without it, rendered scenes")
    images: Annotated[tuple[Path, ...], BeforeValidator(_several)] = Field((), description="folders of its images")
    epochs: Count = Field(4, description="passes over the task's training split")
    batch_size: Annotated[Whole, Field(ge=4)] = Field(64, description="examples of a step")
    learning_rate: Positive = Field(5e-4, description="of the encoders; METER uses 5e-6 for VQA with a batch of 512")
    head_rate: Positive = Field(2.0, description="factor on the learning rate of the classifier")
    fusion_rate: Positive = Field(2.0, description="factor on the learning rate of the fusion")
    limit: Annotated[Whole, Field(ge=4)] | None = Field(
        None, description="number of examples of each split, the first ones"
    )

    @model_validator(mode="after")
    def _files_need_images(self) -> "TaskFiles":
        if (self.annotations is None) == bool(self.images):
            raise ValueError("`annotations` and `images` go together; without both, rendered scenes are used")
        return self


class Suites(Block):
    """What is measured at the end of each trial, in addition to the splits."""

    sugarcrepe: SuiteFiles | None = None
    aro: SuiteFiles | None = None
    valse: SuiteFiles | None = None
    vl_checklist: SuiteFiles | None = None
    winoground: SuiteFiles | None = None
    retrieval: RetrievalSuite | None = None
    vqa: TaskFiles | None = None
    nlvr2: TaskFiles | None = None
    snli_ve: TaskFiles | None = None

    def compositional(self) -> dict[str, SuiteFiles]:
        """The requested compositional suites, by name."""
        return {name: suite for name, suite in self if isinstance(suite, SuiteFiles)}

    def tasks(self) -> dict[str, TaskFiles]:
        """The requested downstream tasks, by name."""
        return {name: task for name, task in self if isinstance(task, TaskFiles)}


class Evaluation(Block):
    every: Count = Field(50, description="steps between evaluations on held-out pairs")
    pairs: Count = Field(
        256, description="maximum number of validation pairs per evaluation; the last step's is the trial's result"
    )
    final_pairs: Count = Field(512, description="maximum number of test pairs, measured once, after the last step")
    batch_size: Count = Field(
        256, description="pairs per forward pass; it changes only memory and time, and the last bits of results"
    )
    robustness_pairs: Annotated[Whole, Field(ge=0)] = Field(
        256, description="maximum number of test pairs, disturbed after the last step; 0 disables robustness"
    )
    suites: Suites | None = Field(
        None,
        description=(
            "published suites, retrieval and downstream tasks that are measured at the end of each trial, by name"
        ),
    )


class Settings(Block):
    """The settings of a trial, except its seed."""

    data: Data = Data()
    model: Model = Model()
    warm_start: WarmStart = WarmStart()
    objectives: Objectives = Objectives()
    optimisation: Optimisation = Optimisation()
    evaluation: Evaluation = Evaluation()

    @model_validator(mode="after")
    def _stored_features_do_not_change(self) -> "Settings":
        if self.data.augment != "none" and self.model.vision.frozen:
            raise ValueError(
                "`data.augment` needs an encoder that reads the images: with `model.vision.frozen: true` its features"
                " are computed once"
            )
        return self


class Seeds(Block):
    count: Count = Field(6, description="trials of each arm; six are the fewest for a verdict")
    first: Annotated[Whole, Field(ge=0)] = Field(0, description="the others follow it")


class Range(Block):
    low: Number | Whole = Field(description="lowest value")
    high: Number | Whole = Field(description="highest value")
    log: bool = Field(False, description="drawn evenly on a logarithmic scale")

    @model_validator(mode="after")
    def _rises(self) -> "Range":
        if self.low >= self.high or (self.log and self.low <= 0):
            raise ValueError("`low` must be below `high`, and above 0 with `log: true`")
        return self


class Search(Block):
    """Nuisance settings, tuned for each arm with the same budget before its best trial is repeated with fresh seeds."""

    settings: Annotated[dict[str, Range | list[Any]], Field(min_length=1)] = Field(
        description="dotted keys, each with a range or a list of levels"
    )
    trials: Annotated[Whole, Field(ge=2)] = Field(16, description="number of trials per arm")
    batch: Count = Field(4, description="trials that are suggested at a time, given the results of earlier ones")
    sampler: Literal["tpe", "gp", "random"] = Field(
        "tpe", description="Optuna's sampler: Parzen estimator, Gaussian process, or random search"
    )
    pruner: Literal["none", "median", "hyperband"] = Field(
        "median", description="stops trials that earlier ones outperform"
    )
    seed: Annotated[Whole, Field(ge=0)] = Field(
        1000, description="of the tuning trials; must not be one of the confirming seeds"
    )


class Target(Block):
    """Convergence: the first step from which `metric` stays at or above `value`."""

    metric: str = Field("val/itm_auc", description="of the validation split, the only one with a curve")
    value: Number | Literal["baseline_final"] = Field(
        "baseline_final", description="`baseline_final`: 80 % of the way from chance to the baseline's last value"
    )


class Experiment(Block):
    """A question, the factors that answer it, and the fixed settings."""

    name: str
    question: str = Field(description="what the experiment asks, in a sentence")
    preset: str = Field(description="the settings that `fixed` and the factors change")
    settings: Settings
    factors: dict[str, list[Any]] = Field(description="dotted keys, each with its levels; every combination is an arm")
    arms: list[dict[str, Any]] = Field(description="combinations of levels, the baseline first")
    baseline: dict[str, Any] = Field(description="the arm that all others are compared with")
    seeds: Seeds = Seeds()
    search: Search | None = None
    target: Target = Target()
    primary: str = Field(
        "val/itm_auc",
        description=(
            "the metric that answers the question, on the validation or test split; a search tunes on the validation"
            " split"
        ),
    )
    file: str = Field("", description="path of its YAML")
    margin: Positive | None = Field(
        None, description="the smallest relevant difference of the primary metric, in its unit"
    )
