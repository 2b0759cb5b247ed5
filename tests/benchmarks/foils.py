"""How far text alone tells the foils of real captions. `python -m tests.benchmarks.foils captions_val2017.json`; prints
a line a kind.

The file: COCO's captions, or lines of `IMAGE#NUMBER<tab>CAPTION` (Flickr8k's). Captions of some images get foils; on
those of the others a small language encoder is trained, by which the foils are balanced, and a model of letters, which
has no part in that and tells how far text alone tells the foils. The first 2,000 images are never read for either.
`--keep DIR` keeps the language encoder and the foils; `--show N` prints N foils of each kind.
"""

import argparse
import json
import math
import random
import time
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import polars as pl
import torch
import torch.nn.functional as F
from transformers import RobertaForMaskedLM

from workbench.config.schema import Text
from workbench.data.foils import make_foils
from workbench.data.masking import hide_tokens
from workbench.data.nouns import learn_nouns
from workbench.data.rule_foils import RULES, Captioned, candidates
from workbench.data.text import Tokeniser, load_tokeniser, save_tokeniser, train_tokeniser
from workbench.data.text_counts import TextCounts
from workbench.model.language import text_encoder, text_states, word_logits
from workbench.objectives.likelihood import pseudo_log_likelihood
from workbench.randomness import generator

LENGTH, VOCABULARY, WIDTH, BATCH = 32, 4000, 128, 128
DISCOUNT = 0.75
Pairs = list[tuple[str, str]]  # a caption and its foil


def read(file: Path) -> list[list[str]]:
    """The captions of each image, in an order that the file does not tell."""
    captions: dict[str, list[str]] = defaultdict(list)
    text = file.read_text(encoding="utf-8")
    if file.suffix == ".json":
        for row in sorted(json.loads(text)["annotations"], key=lambda row: row["id"]):
            captions[f"{row['image_id']:012d}"].append(" ".join(row["caption"].split()))
    else:
        for line in text.splitlines():
            name, _, caption = line.partition("\t")
            captions[name.partition("#")[0]].append(" ".join(caption.split()))
    names = sorted(captions)
    random.Random(0).shuffle(names)
    return [captions[name] for name in names]


def language_of(captions: Sequence[str], steps: int, keep: Path | None) -> tuple[RobertaForMaskedLM, Tokeniser]:
    """A small language encoder of these captions."""
    files = (keep / "language.pt", keep / "tokeniser.json") if keep else None
    if files and files[0].is_file():
        tokeniser = load_tokeniser(files[1], LENGTH)
        language = text_encoder(Text(layers=2, heads=4), WIDTH, tokeniser.size, LENGTH)
        language.load_state_dict(torch.load(files[0], weights_only=True))
        return language.eval(), tokeniser
    torch.manual_seed(0)
    tokeniser = train_tokeniser(captions, VOCABULARY, LENGTH)
    language = text_encoder(Text(layers=2, heads=4), WIDTH, tokeniser.size, LENGTH)
    token_ids, rng = tokeniser.encode(captions), np.random.default_rng(0)
    optimiser = torch.optim.AdamW(language.parameters(), lr=2e-3, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, 2e-3, total_steps=steps, pct_start=0.1)
    for step in range(steps):
        ids = tokeniser.vocabulary.trim(token_ids[rng.integers(0, len(token_ids), BATCH)])
        hidden = hide_tokens(ids, 0.2, generator("benchmark masks", step), tokeniser.vocabulary)
        states = text_states(language, hidden.token_ids)[hidden.positions]
        loss = F.cross_entropy(word_logits(language, states), torch.from_numpy(ids)[hidden.positions])
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        schedule.step()
    print(f"language encoder: {steps} steps, loss {loss.item():.2f}")
    if files:
        files[0].parent.mkdir(parents=True, exist_ok=True)
        torch.save(language.state_dict(), files[0])
        save_tokeniser(tokeniser, files[1])
    return language.eval(), tokeniser


class Letters:
    """How likely a caption is by its letters: a model of six of them with absolute discounting, which backs off to
    fewer."""

    def __init__(self, captions: Sequence[str], order: int = 6) -> None:
        self.order = order
        self.seen: Counter[str] = Counter()
        self.total: Counter[str] = Counter()
        self.different: Counter[str] = Counter()
        for caption in captions:
            for before, letter in self._steps(caption):
                for length in range(order):
                    history = before[len(before) - length :]
                    self.different[history] += history + letter not in self.seen
                    self.seen[history + letter] += 1
                    self.total[history] += 1

    def __call__(self, captions: Sequence[str]) -> np.ndarray:
        return np.array([sum(math.log(self._chance(*step)) for step in self._steps(each)) for each in captions])

    def _steps(self, caption: str) -> Iterator[tuple[str, str]]:
        text = "^" * (self.order - 1) + caption.lower().rstrip(" .") + "$"
        return ((text[place - self.order + 1 : place], text[place]) for place in range(self.order - 1, len(text)))

    def _chance(self, history: str, letter: str) -> float:
        shorter = self._chance(history[1:], letter) if history else 1 / (self.different[""] + 1)
        if not self.total[history]:
            return shorter
        left = DISCOUNT * self.different[history] * shorter
        return (max(self.seen[history + letter] - DISCOUNT, 0) + left) / self.total[history]


def told(gaps: np.ndarray) -> np.ndarray:
    """The share of gaps [N, S] above 0, by each score; those of 0 count half."""
    return np.mean((gaps > 0) + 0.5 * (gaps == 0), axis=0) if len(gaps) else np.full(gaps.shape[1], np.nan)


def main() -> None:
    asked = argparse.ArgumentParser(description=__doc__)
    asked.add_argument("file", type=Path)
    asked.add_argument("--more", type=Path, help="further captions, which the language encoder alone is trained on")
    asked.add_argument(
        "--letters", type=Path, help="captions that the model of letters reads, instead of those of FILE"
    )
    asked.add_argument("--images", type=int, default=2000, help="with foils; one caption of each")
    asked.add_argument("--steps", type=int, default=2500)
    asked.add_argument("--keep", type=Path)
    asked.add_argument("--show", type=int, default=0)
    given = asked.parse_args()
    torch.set_num_threads(1)
    images = read(given.file)
    held, others = images[: given.images], images[2000:]
    known = [caption for image in others for caption in image]
    more = [caption for image in read(given.more) for caption in image] if given.more else []
    language, tokeniser = language_of(known + more, given.steps, given.keep)
    captions = [Captioned(image[0], tuple(image)) for image in held]

    began = time.process_time()
    nouns, counts = learn_nouns(others), TextCounts(known)
    print(f"{len(known):,} captions, {len(nouns.words):,} nouns, read in {time.process_time() - began:.1f} s")
    scored: dict[str, np.ndarray] = {}

    def score(texts: Sequence[str]) -> np.ndarray:
        made = np.column_stack(
            [pseudo_log_likelihood(language, tokeniser.encode(texts), tokeniser.vocabulary), counts(texts)]
        )
        scored.update(zip(texts, made, strict=True))
        return made

    began = time.process_time()
    foils = make_foils(captions, nouns, score, 0)
    seconds = (time.process_time() - began) / len(captions) * 1000
    print(f"1,000 captions: {seconds:.0f} s of one core, {len(scored) / len(captions):.1f} texts scored for each")
    if given.keep:
        texts = pl.DataFrame({"caption": [each.text for each in captions]})
        texts.hstack(foils).write_parquet(given.keep / "foils.parquet")

    letters = Letters([caption for image in read(given.letters) for caption in image] if given.letters else known)
    rng = np.random.default_rng(0)
    before: dict[str, Pairs] = {kind: [] for kind in RULES}
    for captioned in captions:
        for kind, found in candidates(captioned, nouns).items():
            if found:
                before[kind].append((captioned.text, str(rng.choice(found))))
    texts_of = [each.text for each in captions]
    after = {kind: [pair for pair in zip(texts_of, foils[kind], strict=True) if pair[1]] for kind in RULES}
    print(
        f"{'':22s}{'candidates':>12s}{'letters':>9s}{'kept':>8s}{'letters':>9s}  encoder, trigrams, pairs of words,"
        " words"
    )
    for kind in [*RULES, "all"]:
        kinds = RULES if kind == "all" else [kind]
        first, last = ([pair for each in kinds for pair in of[each]] for of in (before, after))
        by_letters = [letters([a for a, _ in of]) - letters([b for _, b in of]) for of in (first, last)]
        balanced = told(np.array([scored[a] - scored[b] for a, b in last]).reshape(len(last), 4))
        shares = [told(gaps.reshape(-1, 1))[0] for gaps in by_letters]
        told_of = ", ".join(f"{share:.3f}" for share in balanced)
        print(f"{kind:22s}{len(first):>12,}{shares[0]:>9.3f}{len(last):>8,}{shares[1]:>9.3f}  {told_of}", flush=True)
    for kind in RULES if given.show else ():
        shown = [after[kind][place] for place in np.random.default_rng(1).permutation(len(after[kind]))[: given.show]]
        print(f"\n{kind}", *(f"  {true}\n  {false}" for true, false in shown), sep="\n")


if __name__ == "__main__":
    main()
