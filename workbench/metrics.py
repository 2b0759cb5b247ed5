"""The table of all metrics: name, title for readers, unit, chance level, direction, and the data that each one needs.

A metric is logged as `<split>/<name>` (`val/itm_auc`), or under its own prefix (`compositional/sugarcrepe/swap_obj`).
A row whose name ends in `/` stands for a family: all metrics whose names start with it.
"""

import re
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final, Literal

if TYPE_CHECKING:
    from workbench.config.schema import Data

SPLITS = {"val": "validation", "test": "test"}


@dataclass(frozen=True)
class Metric:
    """What readers must know about a metric.

    `chance`: the score of guessing, where there is one. `bounds`: the range of possible values. `needs`: the data that
    it requires, rendered scenes or foils (scenes have foils, too). `outcome`: it is measured at every evaluation, so
    that a question can be about it. `headline`: it has a column in the ablation table. `brief`: its title in a paper's
    column. `filed`: the name, or the prefix of a family, under which it is logged on the test split, where that is not
    `test/<name>`; `{suite}` in it is replaced by the suite of the data source's foils."""

    name: str
    title: str
    better: Literal["higher", "lower", "neither"] = "higher"
    unit: str = "share"
    chance: float | None = None
    bounds: tuple[float, float] = (0.0, 1.0)
    needs: Literal["scenes", "foils"] | None = None
    outcome: bool = False
    headline: bool = False
    filed: str | None = None
    brief: str = ""

    @property
    def lower_is_better(self) -> bool:
        return self.better == "lower"

    @property
    def arrow(self) -> str:
        """Returns the arrow of a table heading that shows which direction is better."""
        return {"higher": "↑", "lower": "↓", "neither": ""}[self.better]


INFINITY = float("inf")
ANY, POSITIVE = (-INFINITY, INFINITY), (0.0, INFINITY)
# In the order of the tables.
METRICS = (
    Metric("foil_accuracy", "foil accuracy", chance=0.5, needs="foils", outcome=True, headline=True, brief="Foils"),
    Metric("itm_auc", "matching AUC", chance=0.5, outcome=True, headline=True, brief="AUC"),
    Metric("itm_accuracy", "matching accuracy", chance=0.5, outcome=True),
    Metric("mlm_accuracy", "masked words right", outcome=True, headline=True, brief="MLM"),
    Metric("mlm_loss", "masked-word loss", "lower", "nats", bounds=POSITIVE, outcome=True),
    Metric("synonym_mass", "probability of the word or a synonym", outcome=True),
    Metric("itm_ece", "matching calibration error", "lower", outcome=True, headline=True, brief="ECE"),
    Metric("itm_ece_floor", "noise floor of the matching calibration error", "neither"),
    Metric("mlm_ece", "masked-word calibration error", "lower", outcome=True),
    Metric("mlm_ece_floor", "noise floor of the masked-word calibration error", "neither"),
    Metric("paraphrase_match", "paraphrases matched", needs="scenes", outcome=True),
    Metric("paraphrase_shift", "change of confidence by a paraphrase", "lower", needs="scenes"),
    Metric("synthesized_accuracy", "accuracy on written negatives", chance=0.5, outcome=True),
    Metric("blank_image_accuracy", "accuracy on written negatives, gray image", "neither", chance=0.5, outcome=True),
    Metric("unchanged_share", "written captions left unchanged", "neither", outcome=True),
    Metric("false_negative_share", "false negatives among written captions", "lower", needs="scenes", outcome=True),
    Metric("generator_perplexity", "perplexity of the generator", "lower", "perplexity", bounds=POSITIVE, outcome=True),
    Metric("noisy/itm_auc", "matching AUC, noisy captions", chance=0.5),
    Metric("noisy/itm_accuracy", "matching accuracy, noisy captions", chance=0.5),
    Metric("noisy/mlm_accuracy", "masked words right, noisy captions"),
    Metric("noisy/mlm_loss", "masked-word loss, noisy captions", "lower", "nats", bounds=POSITIVE),
    Metric("noisy/synonym_mass", "probability of the word or a synonym, noisy captions"),
    Metric("curve_area", "mean height of the curve of the target metric", "neither", bounds=ANY),
    Metric("robustness_mean_drop", "loss under disturbance", "lower", bounds=ANY, headline=True, brief="Loss"),
    Metric("corruption_error", "corruption error relative to the baseline", "lower", "ratio", bounds=POSITIVE),
    Metric("effective_robustness", "effective robustness", unit="logits", bounds=ANY),
    Metric("retrieval/text_r1", "text retrieval R@1", chance=0.0, headline=True, brief="TR@1"),
    Metric("retrieval/text_r5", "text retrieval R@5", chance=0.0),
    Metric("retrieval/text_r10", "text retrieval R@10", chance=0.0),
    Metric("retrieval/image_r1", "image retrieval R@1", chance=0.0, headline=True, brief="IR@1"),
    Metric("retrieval/image_r5", "image retrieval R@5", chance=0.0),
    Metric("retrieval/image_r10", "image retrieval R@10", chance=0.0),
    Metric("seconds", "seconds of training", "lower", "s", bounds=POSITIVE),
    # Suites whose chance level is not that of two captions.
    *(Metric(f"compositional/aro/{kind}_order", f"aro, {kind} order", chance=1 / 5) for kind in ("coco", "flickr30k")),
    Metric("compositional/winoground/text", "winoground, text", chance=1 / 4),
    Metric("compositional/winoground/image", "winoground, image", chance=1 / 4),
    Metric("compositional/winoground/group", "winoground, group", chance=1 / 6),
    # Families.
    Metric("foil/", "foils, {}", chance=0.5, needs="foils", filed="compositional/{suite}/"),
    Metric(
        "blank_foil/", "foils with a gray image, {}", "neither", chance=0.5, needs="foils", filed="blank_image/{suite}/"
    ),
    Metric("reliability/", "reliability, {}", "neither", filed="reliability/"),
    Metric("compositional/", "{}", chance=0.5),
    Metric("blank_image/", "{} with a gray image", "neither", chance=0.5),
    Metric("suite_items/", "items measured, {}", "neither", "items", bounds=POSITIVE),
    Metric("suite_missing/", "items without an image, {}", "lower", "items", bounds=POSITIVE),
    Metric("suite_identical/", "items left out as undecidable, {}", "neither", "items", bounds=POSITIVE),
    Metric("robustness_loss/", "loss under {}", "lower", bounds=ANY),
    Metric("robustness/", "matching AUC under {}", chance=0.5),
    Metric("robustness_all/", "matching AUC under {}", chance=0.5),
    Metric("downstream/", "fine-tuned, {}"),
    Metric("perf/", "{}", "neither", "", bounds=POSITIVE),
    Metric("train/", "training: {}", "neither", "", bounds=ANY),
)
# Scores of the published suites, by the names of their files or kinds. VL-CheckList's depend on the lists that are
# present.
SUITE_KINDS: Final = {
    "sugarcrepe": ("add_att", "add_obj", "replace_att", "replace_obj", "replace_rel", "swap_att", "swap_obj"),
    "aro": ("relation", "attribution", "coco_order", "flickr30k_order"),
    "valse": (
        *("existence", "plurals", "counting-small-quant", "counting-hard", "counting-adversarial", "relations"),
        *("action-replacement", "actant-swap", "coreference-standard", "coreference-hard", "foil-it"),
    ),
    "winoground": ("text", "image", "group"),
}
# The suites that are generated from a trial's own test split: foils of rendered scenes, and rule-based foils of
# captions.
SCENES, CAPTIONS = OWN_SUITES = ("scenes", "captions")
PART = re.compile(r"-(first-\d+|max-\d+|all)(?=[-/])")  # in the name of a metric over a part of a suite
AFTERWARDS = {"retrieval", "robustness_all", "calibration", "consistency", "downstream"}
AFTERWARDS |= {"suite_items", "suite_missing", "suite_identical"}
_ROWS = {row.name: row for row in METRICS}
_FAMILIES = tuple(row for row in METRICS if row.name.endswith("/"))


def metric(logged: str) -> Metric:
    """Returns the row of a metric by its logged name, with or without its split; for a family, with the member's title.
    A name without a row gets one without chance level, bounds or direction."""
    name = bare(logged)
    if part := PART.search(name):
        whole = metric(name.replace(part[0], "", 1))
        return replace(whole, name=name, title=f"{whole.title} ({part[1].replace('-', ' ')})")
    if name in _ROWS:
        return _ROWS[name]
    for row in _FAMILIES:
        if name.startswith(row.name):
            return replace(row, name=name, title=row.title.format(spaced(name.removeprefix(row.name))))
    return Metric(name, spaced(name), "neither", "", bounds=ANY)


def of_first(name: str, limit: int | None) -> str:
    """Returns the name of a metric over only the first `limit` examples, which must differ from that over all:
    `retrieval-first-100/text_r1`."""
    if not limit:
        return name
    family, _, rest = name.partition("/")
    if family != "downstream":
        return f"{family}-first-{limit}/{rest}"
    task, _, rest = rest.partition("/")
    return f"{family}/{task}-first-{limit}/{rest}"


def counted_as(kind: str, counted: Collection[str]) -> str | None:
    """Returns the kind of items that a score of a suite is about: VALSE's and VL-CheckList's kinds have several scores,
    such as `existence/p_c`."""
    return next((name for name in (kind, kind.rpartition("/")[0]) if name in counted), None)


def measured_afterwards(name: str) -> bool:
    """Returns whether a metric comes from evaluating a finished run (`wb eval`, `wb finetune`), not from its
    training."""
    family, _, rest = name.partition("/")
    if family in ("compositional", "blank_image"):
        return rest.partition("/")[0] not in OWN_SUITES
    return PART.sub("", f"{family}/")[:-1] in AFTERWARDS


def bare(logged: str) -> str:
    """Returns a metric's name without its split: `itm_auc` for `val/itm_auc`."""
    split, _, name = logged.partition("/")
    return name if split in SPLITS else logged


def split_of(logged: str) -> str | None:
    """Returns `val` or `test`; None for a metric that is logged without its split."""
    split = logged.partition("/")[0]
    return split if split in SPLITS else None


def title(logged: str) -> str:
    """Returns a metric's title for readers, with its split: `matching AUC (validation)`."""
    split = split_of(logged)
    return f"{metric(logged).title} ({SPLITS[split]})" if split else metric(logged).title


def spaced(name: str) -> str:
    """Returns a name as prose: `replace object` for `replace_object`."""
    return name.replace("_", " ").replace("/", ", ")


def filed(split: str, name: str, source: str = SCENES) -> str:
    """Returns the name under which a measurement of a split is logged. On the test split, foils and their related
    metrics form a suite like the published ones, named after the data source."""
    if split == "test":
        suite = SCENES if source == SCENES else CAPTIONS
        for row in _FAMILIES:
            if row.filed and name.startswith(row.name):
                return row.filed.format(suite=suite) + name.removeprefix(row.name)
    return f"{split}/{name}"


def on_validation(logged: str) -> str:
    """Returns the metric's counterpart on the validation split, which has a curve and may be used for tuning."""
    return f"val/{bare(logged)}" if split_of(logged) else logged


def outcomes(data: "Data", splits: tuple[str, ...] = ("val", "test")) -> Iterator[str]:
    """Yields the logged names of metrics that a question may be about with these data. A prepared corpus may come with
    its own foils."""
    known = {None, data.source} | ({"foils"} if data.source != "folder" or data.foils != "none" else set())
    for split in splits:
        for row in METRICS:
            if row.outcome and row.needs in known:
                yield f"{split}/{row.name}"


def suite_outcomes(suites: Mapping[str, int | None]) -> Iterator[str]:
    """Yields the metrics that a question may be about where these suites (name -> limit, if any) are measured at the
    end of each trial."""
    for suite, limit in suites.items():
        if suite == "retrieval":
            names = [row.name for row in METRICS if row.name.startswith("retrieval/")]
        elif suite in SUITE_KINDS:
            part = f"-first-{limit}" if limit else ""
            yield from (f"compositional/{suite}{part}/{kind}" for kind in SUITE_KINDS[suite])
            continue
        else:
            names = [f"downstream/{suite}/accuracy"]
        yield from (of_first(name, limit) for name in names)


def lower_is_better(logged: str) -> bool:
    """Returns whether lower values of a metric are better."""
    return metric(logged).lower_is_better
