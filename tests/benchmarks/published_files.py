"""How fast files in the published forms are read and scored. `python -m tests.benchmarks.published_files`; prints a
line a measure.

All files are made up: tars of SBU's form behind an artificial latency, VQAv2's val questions, and a suite of
SugarCrepe's size with images of noise, scored by the model that comes with the package.
"""

import builtins
import io
import json
import tarfile
import tempfile
import time
from collections.abc import Callable
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from workbench.config.load import load_experiment
from workbench.data.image_files import ImageFolders
from workbench.data.prepare import prepare_source
from workbench.data.sources.detect import read_source
from workbench.evaluation.compositional import Reader, Suite, decoding, told_apart
from workbench.evaluation.contract import evaluate
from workbench.evaluation.downstream.files import read_task
from workbench.evaluation.suites import read_suite
from workbench.model.vilta import ViLTA
from workbench.training.prepare import shipped_for

EXPERIMENT = Path(__file__).resolve().parent.parent.parent / "experiments" / "ablation_itm.yaml"
SAMPLES = 1000  # of the tar
QUESTIONS = 214_354  # of VQAv2's val split
KINDS = {"add_att": 692, "add_obj": 2062, "replace_att": 788, "replace_obj": 1652}
KINDS |= {"replace_rel": 1406, "swap_att": 666, "swap_obj": 245}
IMAGES = 1560  # of SugarCrepe
WORDS = [
    "a",
    "the",
    "on",
    "of",
    "and",
    "red",
    "blue",
    "small",
    "large",
    "dog",
    "cat",
    "man",
    "woman",
    "table",
    "street",
    "holding",
    "beside",
    "under",
    "two",
    "white",
]


def jpeg(rng: np.random.Generator) -> bytes:
    """Noise of 640 x 480 px."""
    out = io.BytesIO()
    small = Image.fromarray(rng.integers(0, 255, (60, 80, 3), dtype=np.uint8))
    small.resize((640, 480), Image.Resampling.BICUBIC).save(out, "JPEG", quality=85)
    return out.getvalue()


class Far(io.RawIOBase):
    """A file each read of which waits as for a network."""

    def __init__(self, path: Any, wait: float) -> None:
        self.file, self.wait, self.reads = real_open(path, "rb", buffering=0), wait, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, *where: Any) -> int:
        return self.file.seek(*where)

    def tell(self) -> int:
        return self.file.tell()

    def readinto(self, buffer: Any) -> int:
        time.sleep(self.wait)
        return self.file.readinto(buffer)

    def close(self) -> None:
        self.file.close()
        super().close()


real_open = open


@contextmanager
def far(wait: float) -> Any:
    """Opening and reading tars takes `wait` seconds each; gives the paths that were opened."""
    opened: list[str] = []

    def slow(path: Any, mode: str = "r", buffering: int = -1, *rest: Any, **more: Any) -> Any:
        if not str(path).endswith(".tar"):
            return real_open(path, mode, buffering, *rest, **more)
        opened.append(str(path))
        time.sleep(wait)
        return io.BufferedReader(Far(path, wait), buffering if buffering > 1 else io.DEFAULT_BUFFER_SIZE)

    builtins.open = slow  # type: ignore[assignment]
    try:
        yield opened
    finally:
        builtins.open = real_open


def tars(home: Path, wait: float) -> str:
    rng = np.random.default_rng(0)
    images = [jpeg(rng) for _ in range(20)]
    with tarfile.open(home / "00000.tar", "w") as tar:
        for k in range(SAMPLES):
            for suffix, data in (("jpg", images[k % 20]), ("txt", f"caption {k}".encode()), ("json", b"{}")):
                member = tarfile.TarInfo(f"{k:09d}.{suffix}")
                member.size = len(data)
                tar.addfile(member, io.BytesIO(data))
    with far(wait) as opened:
        began = time.perf_counter()
        reading = read_source(home)
        read = time.perf_counter() - began
        prepare_source(reading, home / "prepared", 64, "crop", 1, lambda *_: None)
        prepared = time.perf_counter() - began - read
    return (
        f"tar, {1000 * wait:.0f} ms per open and read: reading {SAMPLES / read:,.0f} samples/s, preparing"
        f" {SAMPLES / prepared:,.0f}/s, opened {len(opened)} times"
    )


def vqa(home: Path) -> str:
    rng = np.random.default_rng(0)
    for split, count in (("train", 100), ("val", QUESTIONS)):
        answers = [f"{word} {number}" for word in WORDS for number in range(150)]
        questions = [{"question_id": k, "image_id": k // 5, "question": "what is this"} for k in range(count)]
        drawn = rng.zipf(1.4, (count, 10)) % len(answers)
        told = [
            {
                "question_id": k,
                "image_id": k // 5,
                "multiple_choice_answer": answers[row[0]],
                "answers": [{"answer": answers[place], "answer_id": n} for n, place in enumerate(row)],
            }
            for k, row in enumerate(drawn)
        ]
        (home / f"v2_OpenEnded_mscoco_{split}2014_questions.json").write_text(json.dumps({"questions": questions}))
        (home / f"v2_mscoco_{split}2014_annotations.json").write_text(json.dumps({"annotations": told}))
    seconds = cpu(lambda: read_task("vqa", home, None))
    return f"VQAv2's val questions with ten answers each, {QUESTIONS:,}: read in {seconds:.1f} s of CPU"


def suite(home: Path) -> str:
    rng = np.random.default_rng(0)
    for k in range(IMAGES):
        (home / f"{k}.jpg").write_bytes(jpeg(rng))
    for kind, count in KINDS.items():
        items = {}
        for k in range(count):
            words = rng.choice(WORDS, 10).tolist()
            false = [*words[:4], "another", *words[5:]]
            text = {"caption": " ".join(words), "negative_caption": " ".join(false)}
            items[str(k)] = {"filename": f"{int(rng.integers(IMAGES))}.jpg"} | text
        (home / f"{kind}.json").write_text(json.dumps(items))
    settings = load_experiment(EXPERIMENT).settings
    shipped = shipped_for(settings)
    assert shipped is not None
    tokeniser = shipped.tokeniser
    model = ViLTA(settings.model, settings.data.image_size, tokeniser.vocabulary, settings.data.max_length)
    model.load_state_dict(shipped.weights, strict=False)
    look = decoding(model.eval(), settings.data.image_size, "pad")
    reader = Reader(model, tokeniser, settings.evaluation.batch_size, look)

    def score() -> None:
        items = told_apart(read_suite("sugarcrepe", home, ImageFolders.of([home])), tokeniser)
        evaluate(Suite(reader, "sugarcrepe", items))

    return f"SugarCrepe's size, {sum(KINDS.values()):,} items, {IMAGES:,} images: scored in {cpu(score):.1f} s of CPU"


def cpu(action: Callable[[], object]) -> float:
    began = time.process_time()
    action()
    return time.process_time() - began


def main() -> None:
    measures = [lambda home: tars(home, 0.0), lambda home: tars(home, 0.03), vqa, suite]
    for measure in measures:
        with tempfile.TemporaryDirectory() as home:
            print(measure(Path(home)), flush=True)


if __name__ == "__main__":
    main()
