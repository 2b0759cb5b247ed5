from pathlib import Path

import pytest

from workbench.config.load import load_experiment
from workbench.config.schema import Settings
from workbench.config.settings import apply, dotted_keys
from workbench.errors import UserError
from workbench.sweep.grid import expand

ROOT = Path(__file__).resolve().parents[2]

GOOD = """question: Does it help?
preset: tiny
fixed:
  optimisation.steps: 20
factors:
  objectives.itm.hard_ratio: [0.0, 0.5]
baseline:
  objectives.itm.hard_ratio: 0.5
seeds: {count: 3}
"""


def write(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "e.yaml"
    path.write_text(text, encoding="utf-8")
    return path


def test_a_file_becomes_cells_seed_by_seed_with_the_baseline_first(tmp_path: Path) -> None:
    experiment = load_experiment(write(tmp_path, GOOD))
    cells = expand(experiment)
    assert experiment.settings.optimisation.steps == 20
    assert [(cell.label, cell.seed) for cell in cells[:3]] == [
        ("hard_ratio=0.5", 0),
        ("hard_ratio=0.0", 0),
        ("hard_ratio=0.5", 1),
    ]
    assert len({cell.key for cell in cells}) == 6


def test_an_override_wins_over_the_file(tmp_path: Path) -> None:
    experiment = load_experiment(write(tmp_path, GOOD), ["optimisation.steps=7", "data.caption_noise=0.1"])
    assert experiment.settings.optimisation.steps == 7
    assert experiment.settings.data.caption_noise == 0.1


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        (
            "optimisation.steps: 20",
            "optimisation.step: 20",
            "e.yaml:4: unknown key `optimisation.step` (did you mean `optimisation.steps`?)",
        ),
        ("optimisation.steps: 20", "optimisation.steps: many", "e.yaml:4: `optimisation.steps` is 'many'"),
        ("optimisation.steps: 20", "optimisation.steps: -1", "greater than or equal to 1"),
        ("question: Does it help?", "questoin: Does it help?", "unknown key `questoin` (did you mean `question`?)"),
        ("[0.0, 0.5]", "[]", "e.yaml:6: `objectives.itm.hard_ratio` has no levels"),
        ("[0.0, 0.5]", "[0.5, 0.5]", "names a level twice"),
        ("[0.0, 0.5]", "[0.5, 1.5]", "it must be less than or equal to 1"),
        ("steps: 20", "steps: many", "`optimisation.steps` is 'many': it must be a whole number."),
        ("hard_ratio: 0.5", "hard_ratio: 0.7", "none of the arms"),
        ("preset: tiny", "preset: tinny", "there is no preset `tinny` (did you mean `tiny`?)"),
        ("seeds: {count: 3}", "seeds: {count: 0}", "greater than or equal to 1"),
        ("preset: tiny", "preset: [", "not valid YAML"),
        ("factors:", "arms: [{optimisation.steps: 3}]\nfactors:", "either `factors`"),
        (
            "preset: tiny",
            "preset: tiny\nprimary: val/itm_acu",
            "unknown metric `val/itm_acu` (did you mean `val/itm_auc`?)",
        ),
        (
            "preset: tiny",
            "preset: tiny\nprimary: test/foil_acuracy",
            "e.yaml:3: unknown metric `test/foil_acuracy` (did you mean `test/foil_accuracy`?)",
        ),
        (
            "preset: tiny",
            "preset: tiny\ntarget: {metric: test/itm_auc}",
            "e.yaml:3: `target.metric` is `test/itm_auc`, but the test split is measured once and has no curve "
            "(did you mean `val/itm_auc`?)",
        ),
        (
            "preset: tiny",
            "preset: tiny\ntarget: {metric: test/itm_acu}",
            "e.yaml:3: unknown metric `test/itm_acu` (did you mean `val/itm_auc`?)",
        ),
        ("preset: tiny", "preset: tiny\nmargin: 0", "e.yaml:3: `margin` is 0; state the smallest relevant difference"),
        ("preset: tiny", "preset: tiny\nmargin: -0.02", "e.yaml:3: `margin` is -0.02; state"),
        ("preset: tiny", "preset: tiny\nmargin: two points", "e.yaml:3: `margin` is 'two points'; state"),
        ("preset: tiny", "preset: tiny\nmargin: true", "e.yaml:3: `margin` is True; state"),
        ("preset: tiny", "preset: tiny\nmargin: .inf", "e.yaml:3: `margin` is inf; state"),
        ("preset: tiny", "preset: tiny\nmargn: 0.02", "unknown key `margn` (did you mean `margin`?)"),
    ],
)
def test_a_mistake_is_named_in_one_sentence(tmp_path: Path, old: str, new: str, said: str) -> None:
    assert old in GOOD
    with pytest.raises(UserError) as caught:
        load_experiment(write(tmp_path, GOOD.replace(old, new)))
    message = str(caught.value)
    assert said in message
    assert "\n" not in message


def test_the_answer_may_be_about_the_test_split_and_state_which_difference_matters(tmp_path: Path) -> None:
    experiment = load_experiment(write(tmp_path, GOOD + "primary: test/foil_accuracy\nmargin: 0.02\n"))
    assert (experiment.primary, experiment.margin) == ("test/foil_accuracy", 0.02)
    assert load_experiment(write(tmp_path, GOOD)).margin is None
    assert load_experiment(write(tmp_path, GOOD + "margin: 1\nprimary: test/mlm_loss\n")).margin == 1.0


def test_what_needs_known_facts_is_no_metric_of_a_folder(tmp_path: Path) -> None:
    folder = ["data.source=folder", "data.path=images", "warm_start.source=train"]
    with pytest.raises(UserError, match="unknown metric `test/paraphrase_match`"):
        load_experiment(write(tmp_path, GOOD + "primary: test/paraphrase_match\n"), folder)
    about_foils = write(tmp_path, GOOD + "primary: test/foil_accuracy\n")
    assert load_experiment(about_foils, folder).primary == "test/foil_accuracy"
    with pytest.raises(UserError, match="unknown metric `test/foil_accuracy`"):
        load_experiment(about_foils, [*folder, "data.foils=none"])


@pytest.mark.parametrize("path", sorted((ROOT / "experiments").glob("*.yaml")), ids=lambda path: path.stem)
def test_every_experiment_answers_on_the_test_split_and_says_which_difference_matters(path: Path) -> None:
    experiment = load_experiment(path)
    assert experiment.primary.startswith("test/")
    assert experiment.target.metric.startswith("val/")
    assert experiment.margin == 0.02


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"nowhere\.yaml: there is no such file"):
        load_experiment(tmp_path / "nowhere.yaml")


@pytest.mark.parametrize("override", ["steps", "optimisation.stepz=3", "objectives.itm.hard_ratio=0.5"])
def test_a_wrong_override_is_refused(tmp_path: Path, override: str) -> None:
    with pytest.raises(UserError, match="--set"):
        load_experiment(write(tmp_path, GOOD), [override])


def test_arms_may_be_listed(tmp_path: Path) -> None:
    text = GOOD[: GOOD.index("factors:")] + (
        "arms:\n  - {objectives.mlm.soft_labels: none, objectives.mlm.temperature: 1.0}\n"
        "  - {objectives.mlm.soft_labels: frozen_lm, objectives.mlm.temperature: 2.0}\n"
    )
    experiment = load_experiment(write(tmp_path, text))
    assert [cell.label for cell in expand(experiment)[:2]] == [
        "soft_labels=none, mlm.temperature=1.0",
        "soft_labels=frozen_lm, mlm.temperature=2.0",
    ]


def test_every_setting_can_be_reached_by_its_dotted_key() -> None:
    keys = dotted_keys()
    assert "objectives.mlm.temperature" in keys
    assert apply(Settings(), {"objectives.mlm.temperature": 3.0}).objectives.mlm.temperature == 3.0


def test_an_arm_may_name_only_what_it_changes(tmp_path: Path) -> None:
    first = "{objectives.itm.top_k: null, objectives.itm.top_p: 1.0, objectives.itm.sampling_temperature: 1.0}"
    text = GOOD[: GOOD.index("factors:")] + f"arms:\n  - {first}\n  - {{objectives.itm.top_k: 3}}\n"
    cells = expand(load_experiment(write(tmp_path, text)))[:2]
    assert [cell.label for cell in cells] == ["baseline", "itm.top_k=3"]
    assert [cell.settings.objectives.itm.top_k for cell in cells] == [None, 3]
    assert cells[1].values == {**cells[0].values, "objectives.itm.top_k": 3}
    with pytest.raises(UserError, match=r"also `objectives\.itm\.weight`"):
        load_experiment(write(tmp_path, text + "  - {objectives.itm.weight: 3}\n"))


GRID = """
factors:
  objectives.mlm.soft_labels: [none, frozen_lm]
  objectives.mlm.temperature: [1.0, 2.0]
"""


def arms_of(tmp_path: Path, text: str) -> list[list[object]]:
    experiment = load_experiment(write(tmp_path, "question: Which?\npreset: tiny\n" + text))
    return [list(arm.values()) for arm in experiment.arms]


def test_where_leaves_out_combinations(tmp_path: Path) -> None:
    rule = "where:\n  - {if: {objectives.mlm.soft_labels: none}, then: {objectives.mlm.temperature: [1.0]}}\n"
    assert arms_of(tmp_path, GRID) == [["none", 1.0], ["none", 2.0], ["frozen_lm", 1.0], ["frozen_lm", 2.0]]
    assert arms_of(tmp_path, GRID + rule) == [["none", 1.0], ["frozen_lm", 1.0], ["frozen_lm", 2.0]]


def test_zipped_factors_change_together(tmp_path: Path) -> None:
    zipped = "zip:\n  objectives.itm.top_k: [null, 5]\n  objectives.itm.hard_ratio: [0.0, 0.5]\n"
    assert arms_of(tmp_path, zipped) == [[None, 0.0], [5, 0.5]]
    assert len(arms_of(tmp_path, GRID + zipped)) == 8


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("zip:\n  objectives.itm.top_k: [null, 5]\n  objectives.itm.hard_ratio: [0.0]\n", "equally long"),
        ("zip: {objectives.mlm.temperature: [1.0]}\n", "under `factors` too"),
        ("where: [{if: {objectives.mlm.temperature: 1.0}}]\n", "the keys `if` and `then`"),
        ("where: [{if: {objectives.mlm.temprature: 1.0}, then: {}}]\n", "did you mean `objectives.mlm.temperature`"),
        ("where: [{if: {}, then: {objectives.mlm.temperature: 9.0}}]\n", "leaves no combination"),
        ("where: 3\n", "must be a list"),
    ],
)
def test_what_is_wrong_with_where_and_zip_is_named(tmp_path: Path, text: str, said: str) -> None:
    with pytest.raises(UserError, match=said):
        arms_of(tmp_path, GRID + text)


def test_the_name_of_an_experiment_is_not_its_file() -> None:
    with pytest.raises(UserError, match=r"there is no such file \(did you mean `experiments/ablation_itm.yaml`\?\)"):
        load_experiment(Path("ablation_itm"))
