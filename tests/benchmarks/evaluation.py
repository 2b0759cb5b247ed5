"""What share of a `tiny` trial's work its evaluations are: a step, a validation and what comes at the end, times their
numbers."""

import math
from pathlib import Path

from tests.benchmarks.figures import CPU, ROOT, Figure, by_turns, figure
from tests.benchmarks.training import train_step
from workbench.config.load import load_experiment
from workbench.config.settings import apply
from workbench.evaluation.contract import evaluate
from workbench.objectives.teachers import make_teachers
from workbench.training.prepare import prepare
from workbench.training.pretrain import starting_model
from workbench.training.validation import Subject, at_the_end, examples, validation

EXPERIMENT = ROOT / "experiments" / "ablation_itm.yaml"
STEPS = 5  # whose mean is a step's time
TIMES = (1,)  # the pairs that the experiment evaluates


def measure(repeats: int, home: Path) -> list[Figure]:
    return [made for times in TIMES for made in of_pairs(times, repeats, home / str(times))]


def of_pairs(times: int, repeats: int, home: Path) -> list[Figure]:
    """A trial of the main job with so many times its evaluations' pairs; what trials share is there already."""
    settings = load_experiment(EXPERIMENT).settings
    counts = {name: times * getattr(settings.evaluation, name) for name in ("pairs", "final_pairs", "robustness_pairs")}
    changes = {"data.train_pairs": 512, "data.eval_pairs": counts["final_pairs"], "objectives.itm.hard_ratio": 0.5}
    settings = apply(settings, changes | {f"evaluation.{name}": count for name, count in counts.items()})
    prepared = prepare(settings, home / "cache", lambda *_: None)
    model = starting_model(settings, 0, prepared)
    subject = Subject(model, settings, prepared, make_teachers(settings.objectives, model, prepared.corpus))
    step = train_step(apply(settings, {"optimisation.steps": 100_000}), prepared)  # as many as are asked for

    def steps() -> None:
        for _ in range(STEPS):
            step()

    def end() -> None:
        evaluate(at_the_end(subject))
        examples(subject)

    count, every = settings.optimisation.steps, settings.evaluation.every
    taken = by_turns({"steps": steps, "validation": lambda: evaluate(validation(subject)), "end": end}, repeats)
    parts = {
        f"{count} steps": taken["steps"] * count / STEPS,
        f"{math.ceil(count / every)} validations": taken["validation"] * math.ceil(count / every),
        "evaluation at the end": taken["end"],
    }
    training, *evaluations = parts.values()
    name = f"`tiny`, {times} x its pairs" if times > 1 else "`tiny`"
    return [
        *(figure(f"{name}, {part}", "s", each, CPU) for part, each in parts.items()),
        figure(f"{name}, share of evaluation", "", sum(evaluations) / (training + sum(evaluations)), "of these"),
    ]
