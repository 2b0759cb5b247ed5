"""YAML as people write it: one value in two spellings, keys that stand twice, files from other editors, grids of any
size."""

import json
import time
from pathlib import Path

import pytest

from workbench.config.arms import MOST_CELLS
from workbench.config.load import load_experiment
from workbench.config.schema import IRRELEVANT, LATER, Settings
from workbench.config.settings import apply, as_recorded, telling
from workbench.errors import UserError
from workbench.sweep.grid import expand
from workbench.trial.cell import settings_key

RATIO, TEMPERATURE = "objectives.itm.hard_ratio", "objectives.mlm.temperature"
HEAD = "question: Does it?\n"


def written(tmp_path: Path, text: str | bytes, name: str = "e.yaml") -> Path:
    path = tmp_path / name
    path.write_bytes(text if isinstance(text, bytes) else (HEAD + text).encode())
    return path


def refusal(path: Path, *overrides: str) -> str:
    with pytest.raises(UserError) as caught:
        load_experiment(path, overrides)
    told = str(caught.value)
    assert "\n" not in told
    assert told.endswith((".", ")."))
    return told


@pytest.mark.parametrize(
    ("text", "key", "lines"),
    [
        ("preset: tiny\nseeds: {count: 1}\npreset: lite0\n", "preset", "in line 2 and in line 4"),
        (f"factors:\n  {RATIO}: [0.0]\n  {RATIO}: [0.5]\n", RATIO, "in line 3 and in line 4"),
        (f"factors:\n  {RATIO}: [0.0]\n  '{RATIO}': [0.5]\n", RATIO, "in line 3 and in line 4"),
        (
            "fixed:\n  optimisation.steps: 1\n\n  optimisation.steps: 2\n",
            "optimisation.steps",
            "in line 3 and in line 5",
        ),
        (f"arms:\n  - {RATIO}: 0.0\n  - {RATIO}: 0.5\n    {RATIO}: 1.0\n", RATIO, "in line 4 and in line 5"),
        (f"arms: [{{{RATIO}: 0.0}}, {{{RATIO}: 0.5,\n {RATIO}: 1.0}}]\n", RATIO, "in line 2 and in line 3"),
        ("seeds: {count: 2, count: 3}\n", "count", "in line 2"),
        ("zip: &a {}\nfixed:\n  <<: *a\n  <<: *a\n", "<<", "in line 4 and in line 5"),
    ],
)
def test_a_key_that_stands_twice_is_refused_with_both_lines(tmp_path: Path, text: str, key: str, lines: str) -> None:
    assert f"the key `{key}` occurs twice, {lines}; " in refusal(written(tmp_path, text))


def test_a_merged_key_may_be_written_anew(tmp_path: Path) -> None:
    text = (
        f"arms:\n  - &first {{{RATIO}: 0.0, {TEMPERATURE}: 1.0}}\n  - {{<<: *first, {RATIO}: 0.5}}\n"
        f"  - <<: [*first]\n    {TEMPERATURE}: 3.0\n"
    )
    assert load_experiment(written(tmp_path, text)).arms == [
        {RATIO: 0.0, TEMPERATURE: 1.0},
        {RATIO: 0.5, TEMPERATURE: 1.0},
        {RATIO: 0.0, TEMPERATURE: 3.0},
    ]


@pytest.mark.parametrize(
    ("key", "levels"),
    [
        (RATIO, "[0.5, .5]"),
        (RATIO, "[0.5, 5e-1]"),
        (RATIO, "[0.5, '0.5']"),
        (RATIO, "[1, 1.0]"),
        (RATIO, "[0.0, -0.0]"),
        (RATIO, "[.3, .30000000000000004]"),
        ("optimisation.learning_rate", "[1e-3, 0.001, 2e-3]"),
        ("objectives.itm.top_k", "[null, ~, 5]"),
        ("objectives.itm.top_k", "[5, 5.0]"),
        ("objectives.mlm.whole_word", "[true, yes]"),
        ("model.vision.options", "[{a: 1, b: 2}, {b: 2, a: 1.0}]"),
        ("data.path", "[pictures, ./pictures]"),
    ],
)
def test_one_value_in_two_spellings_is_one_level(tmp_path: Path, key: str, levels: str) -> None:
    told = refusal(written(tmp_path, f"factors:\n  {key}: {levels}\n"))
    assert told.startswith(f"{tmp_path}/e.yaml:3: `{key}` names a level twice: ")
    arms = "".join(f"  - {{{key}: {level}}}\n" for level in (levels[1:-1].split(", ") if "{" not in levels else ()))
    if arms:
        assert f"two arms are the same, the one here and that of line 3 (`{key}` " in refusal(
            written(tmp_path, "arms:\n" + arms)
        )
        searched = key not in ("data.path",)
        told = refusal(written(tmp_path, f"search:\n  settings:\n    {key}: {levels}\n"))
        assert not searched or f":4: `{key}` names a level twice" in told


def test_levels_that_look_alike_are_refused(tmp_path: Path) -> None:
    told = refusal(written(tmp_path, "factors: {model.vision.options.x: ['1', 1]}\n"))
    assert "`model.vision.options.x` has two levels that are both shown as `1`, '1' and 1" in told


@pytest.mark.parametrize("key", ["optimisation.checkpoint_every", "data.workers"])
def test_arms_that_come_to_the_same_settings_are_refused(tmp_path: Path, key: str) -> None:
    told = refusal(written(tmp_path, f"factors:\n  {RATIO}: [0.0, 0.5]\n  {key}: [1, 2]\n"))
    assert f"e.yaml:4: two arms result in the same settings, since they differ only in `{key}`, 1 and 2" in told


def test_levels_are_what_the_settings_make_of_them(tmp_path: Path) -> None:
    """However the baseline and `where` spell a level, it is that of the factor."""
    text = (
        f"factors: {{{RATIO}: [1, 5e-1], {TEMPERATURE}: [1, 2]}}\n"
        f"where: [{{if: {{{RATIO}: '0.5'}}, then: {{{TEMPERATURE}: 2.0000000000000004}}}}]\n"
        f"baseline: {{{RATIO}: .5, {TEMPERATURE}: 2}}\n"
    )
    experiment = load_experiment(written(tmp_path, text))
    assert experiment.factors == {RATIO: [1.0, 0.5], TEMPERATURE: [1.0, 2.0]}
    assert experiment.baseline == {RATIO: 0.5, TEMPERATURE: 2.0}
    assert [cell.label for cell in expand(experiment)[:3]] == [
        f"hard_ratio={ratio}, mlm.temperature={temperature}"
        for ratio, temperature in ((0.5, 2.0), (1.0, 1.0), (1.0, 2.0))
    ]


def test_equal_settings_have_equal_hashes(tmp_path: Path) -> None:
    spellings = [
        "optimisation.learning_rate: 1e-3\n  model.vision.options: {a: 1, b: 2}\n  data.caption_noise: 0",
        "optimisation.learning_rate: '0.001'\n  model.vision.options.b: 2\n  model.vision.options.a: 1\n"
        "  data.caption_noise: -0.0",
    ]
    settings = [load_experiment(written(tmp_path, f"fixed:\n  {text}\n")).settings for text in spellings]
    assert settings_key(settings[0]) == settings_key(settings[1])


def test_a_setting_that_came_later_leaves_the_hash_of_what_was_before_it() -> None:
    """Finished cells are found again: what the YAML could not say then is in no hash, and says what it did."""
    before = Settings.model_validate(
        {
            "objectives": {
                "mlm": {"mask_words": "any"},
                "itm": {"synthesis_words": "any", "synthesis_rounds": 1},
            },
            "warm_start": {"source": "train"},
        }
    )
    assert {dotted.rsplit(".")[-1] for dotted in LATER} == {
        "mask_words",
        "synthesis_words",
        "synthesis_rounds",
        "deterministic",
        "suites",
        "foils",
        "source",
        "fusion",
        "fused",
        "text_pool",
    }
    told = json.loads(telling(before))
    old = before.model_dump(exclude=IRRELEVANT)
    for dotted in LATER:
        *blocks, name = dotted.split(".")
        at = old
        for block in blocks:
            at = at[block]
        del at[name]
    assert told == old
    assert telling(as_recorded(told)) == telling(before)
    for dotted, other in (("objectives.mlm.mask_words", "content"), ("objectives.itm.synthesis_rounds", 2)):
        changed = apply(before, {dotted: other})
        assert settings_key(changed) != settings_key(before)
        assert as_recorded(changed.model_dump()) == changed


def test_mappings_and_lists_may_be_levels(tmp_path: Path) -> None:
    text = "arms:\n  - {model.vision.options: {a: 1}}\n  - {model.vision.options: {a: [1, 2]}}\n"
    labels = [cell.label for cell in expand(load_experiment(written(tmp_path, text)))[:2]]
    assert labels == ["options={'a': 1}", "options={'a': [1, 2]}"]
    again = refusal(written(tmp_path, text + "  - {model.vision.options: {a: [1, 2.0]}}\n"))
    assert "e.yaml:5: two arms are the same, the one here and that of line 4" in again


def test_a_range_is_of_the_settings_kind(tmp_path: Path) -> None:
    """A range from 1 to 2 of a setting with decimals is not the two whole numbers alone."""
    batch = "    optimisation.batch_size: {low: 16.0, high: 64}\n"
    text = f"search:\n  settings:\n    {TEMPERATURE}: {{low: 1, high: 2}}\n{batch}"
    search = load_experiment(written(tmp_path, text)).search
    assert search is not None
    ends = [(levels.low, levels.high) for levels in search.settings.values() if not isinstance(levels, list)]
    assert [[type(end) for end in pair] for pair in ends] == [[float, float], [int, int]]


def test_an_override_given_twice_is_refused(tmp_path: Path) -> None:
    told = refusal(written(tmp_path, ""), "optimisation.steps=1", "optimisation.steps=2")
    assert told == "--set: `optimisation.steps` is set twice, as 1 and 2; keep one of them."
    assert (
        load_experiment(written(tmp_path, ""), ["optimisation.learning_rate=1e-3"]).settings.optimisation.learning_rate
        == 1e-3
    )
    wrong = refusal(written(tmp_path, "fixed: {optimisation.steps: 20}\n"), "optimisation.steps=-1")
    assert wrong.startswith("--set: `optimisation.steps` is -1")


@pytest.mark.parametrize("text", ["1e-4", "1E-4", "0.0001", ".0001", "1_0e-5", "'1e-4'"])
def test_numbers_are_read_as_people_mean_them(tmp_path: Path, text: str) -> None:
    experiment = load_experiment(
        written(tmp_path, f"fixed: {{optimisation.learning_rate: {text}, optimisation.steps: 1e2}}\n")
    )
    assert experiment.settings.optimisation.learning_rate == 1e-4
    assert experiment.settings.optimisation.steps == 100
    assert load_experiment(written(tmp_path, "seeds: {first: 010}\nmargin: 2e-2\n")).seeds.first == 10


@pytest.mark.parametrize("value", ["yes", "on", "no", "false"])
@pytest.mark.parametrize("key", ["optimisation.steps", RATIO, "objectives.itm.top_k", "objectives.mlm.soft_labels"])
def test_yes_and_no_are_no_numbers_and_no_texts(tmp_path: Path, key: str, value: str) -> None:
    told = refusal(written(tmp_path, f"fixed:\n  {key}: {value}\n"))
    assert f"e.yaml:3: `{key}` is {value in ('yes', 'on')}: " in told
    assert "YAML reads yes, no, on and off as true and false" in told


@pytest.mark.parametrize(
    "data",
    [
        b"\xef\xbb\xbf" + HEAD.encode() + b"seeds: {count: 2}\n",
        (HEAD + "seeds: {count: 2}\n").replace("\n", "\r\n").encode(),
        b"---\r\n" + HEAD.encode() + b"seeds: {count: 2}\n...\n",
        (HEAD + "seeds: {count: 2}\n").encode("utf-16"),
        HEAD.encode() + b"seeds: &two {count: 2}\nfixed: {}\n",
    ],
    ids=["mark", "windows", "document", "utf-16", "anchor"],
)
def test_files_of_other_editors_work(tmp_path: Path, data: bytes) -> None:
    assert load_experiment(written(tmp_path, data)).seeds.count == 2


BOMB = "fixed:\n  - &a0 [1, 1, 1, 1, 1, 1, 1, 1, 1]\n" + "".join(
    f"  - &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]\n" for n in range(1, 10)
)
MERGED = "fixed:\n  - &a0 {x: 1}\n" + "".join(
    f"  - &a{n} {{<<: [{', '.join([f'*a{n - 1}'] * 9)}]}}\n" for n in range(1, 10)
)


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"", ": the file is empty; an experiment is a mapping"),
        (b"# nothing yet\n", ": the file is empty"),
        (b"- question: x\n", ": an experiment is a mapping"),
        (b"just words\n", ": an experiment is a mapping"),
        (HEAD.encode() + b"seeds:\n\tcount: 2\n", ":3: not valid YAML (a tab stands where YAML needs spaces)."),
        (HEAD.encode() + b"---\nquestion: y\n", ":2: not valid YAML (a second document begins"),
        (bytes(range(256)), ":2: no UTF-8 text (byte 0x80); save it as UTF-8."),
        (HEAD.encode() + "preset: caf\xe9\n".encode("latin-1"), ":2: no UTF-8 text (byte 0xe9)"),
        (HEAD.encode() + b"preset: a\0b\n", ":2: not valid YAML (the character U+0000 is not allowed)."),
        (HEAD.encode() + b"preset: 'tiny\nseeds: {count: 2}\n", ":2: not valid YAML (a quote that is opened here"),
        (HEAD.encode() + b"fixed: {a: [1,\n\nseeds: 3\n", ":2: not valid YAML (a bracket that is opened here"),
        (b"\nquestion: What: this?\n", ":2: not valid YAML (a second `:` follows"),
        (HEAD.encode() + b"fixed: {data.exclude: *.png}\n", ":2: not valid YAML (a text that begins with *"),
        (HEAD.encode() + b"fixed: *other\n", ":2: not valid YAML (an alias such as *name needs its anchor"),
        (HEAD.encode() + b"preset: !!python/name:os.system x\n", ":2: not valid YAML (tags such as !name"),
        (HEAD.encode() + b"preset: !!int x\n", ":2: not valid YAML (not a valid int)."),
        (HEAD.encode() + b"fixed: " + b"9" * 5000 + b"\n", ":2: not valid YAML (not a valid int)."),
        (HEAD.encode() + b"fixed: " + b"[" * 100_000, ":2: not valid YAML (it is nested more than 50 deep)."),
        (HEAD.encode() + b"fixed: &a [1, *a]\n", ":2: an anchor contains an alias of itself"),
        (HEAD.encode() + BOMB.encode(), ":9: with its aliases written out this has more than"),
        (HEAD.encode() + MERGED.encode(), ":9: with its aliases written out this has more than"),
        (b"question: 42\n", ":1: `question` is 42; write a sentence"),
        (HEAD.encode() + b"seeds: {count: yes}\n", ":2: `seeds.count` is True"),
        (HEAD.encode() + b"fixed: {optimisation.learning_rate: .inf}\n", ":2: `optimisation.learning_rate` is inf"),
        (HEAD.encode() + b"fixed: {model.vision.options.x: .nan}\n", ":2: `model.vision.options` is {'x': nan}"),
        (HEAD.encode() + b"#" * 10_000_001, ": larger than 10 MB"),
        (
            HEAD.encode() + b"fixed: {model.vision.options: {a: 1}, model.vision.options.a: 2}\n",
            ":2: `model.vision.options.a` is a part of `model.vision.options`",
        ),
    ],
)
def test_what_cannot_be_read_is_named_by_its_line(tmp_path: Path, data: bytes, said: str) -> None:
    assert refusal(written(tmp_path, data)).startswith(f"{tmp_path}/e.yaml{said}")


def test_the_line_is_that_of_the_place_and_not_of_another_with_the_same_key(tmp_path: Path) -> None:
    rule = f"where: [{{if: {{{RATIO}: 0.5}}, then: {{}}}}]\nbaseline: {{{RATIO}: 0.5}}\n"
    text = f"{rule}factors:\n  {RATIO}:\n  - 0.5\n  - x\n"
    assert f"e.yaml:7: `{RATIO}` is 'x'" in refusal(written(tmp_path, text))
    folder = "fixed:\n  optimisation.steps: 3\n  data.source: folder\n"
    assert "e.yaml:4: `data.path` is needed" in refusal(written(tmp_path, folder))


def test_long_questions_and_strange_names(tmp_path: Path) -> None:
    question = 'question: "' + 'What\'s it \\"for\\" 🙂? ' * 250 + '"\n'
    experiments = [
        load_experiment(written(tmp_path, question.encode(), name))
        for name in ("what's 🙂.yaml", "what's 🐈.yaml", "-x.yaml", "..y.yaml", f"{'z' * 240}.yaml", "é ü.yaml")
    ]
    assert len(experiments[0].question) > 4500
    assert "🙂" in experiments[0].question
    names = [experiment.name for experiment in experiments]
    assert len(set(names)) == len(names)
    assert names[0].startswith("what_s _-")  # a name is also that of folders, and stands in quotes in a search
    assert names[-1] == "é ü"
    assert max(map(len, names)) < 170


def grid(levels: int, keys: int) -> str:
    names = (
        RATIO,
        "objectives.mlm.mask_ratio",
        "objectives.mlm.alpha",
        "objectives.itm.weight",
        "objectives.itc.weight",
    )
    values = ", ".join(str((n + 1) / 100) for n in range(levels))
    return "factors:\n" + "".join(f"  {name}: [{values}]\n" for name in names[:keys])


def test_a_grid_is_counted_before_it_is_built(tmp_path: Path) -> None:
    start = time.perf_counter()
    told = refusal(written(tmp_path, grid(50, 5)))
    assert "50 x 50 x 50 x 50 x 50 = 312,500,000 arms x 6 seeds are 1,875,000,000 cells, more than the 100,000" in told
    rule = f"where: [{{if: {{{RATIO}: 0.01}}, then: {{{RATIO}: 0.02}}}}]\n"
    assert "more than the 1,000,000 from which `where` can choose" in refusal(written(tmp_path, grid(50, 5) + rule))
    assert "1 arms x 1,000,000,000 seeds" in refusal(written(tmp_path, "seeds: {count: 1000000000}\n"))
    assert time.perf_counter() - start < 5


@pytest.mark.slow
def test_ten_thousand_cells_load_in_seconds(tmp_path: Path) -> None:
    path = written(tmp_path, grid(10, 4) + "seeds: {count: 1}\n")
    start = time.perf_counter()
    cells = expand(load_experiment(path))
    assert len({cell.key for cell in cells}) == 10_000 <= MOST_CELLS
    assert time.perf_counter() - start < 30  # 1.5 s on a busy core


def test_a_folder_is_the_same_by_each_of_its_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    keys = {
        settings_key(Settings.model_validate({"data": {"source": "folder", "path": name}}))
        for name in ("pictures", "./pictures", "x/../pictures", "~/pictures", str(tmp_path / "pictures"))
    }
    assert len(keys) == 1
    # As before: what is absolute, and what no folder is read from, is in the hashes of finished cells.
    for data in ({"source": "folder", "path": "/a/../b/"}, {"source": "scenes", "path": "x"}):
        assert Settings.model_validate({"data": data}).data.path == data["path"]
