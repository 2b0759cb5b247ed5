"""How far text alone tells the foils of real captions. `python -m tests.benchmarks.foils captions_val2017.json`; prints a line a kind.

The file: COCO's captions, or lines of `IMAGE#NUMBER<tab>CAPTION` (Flickr8k's). Captions of some images get foils; on those of the others a small
language encoder is trained, by which the foils are balanced, and a trigram model, which has no part in that and tells how far text alone
tells the foils. `--keep DIR` keeps the language encoder and the foils; `--show N` prints N foils of each kind.
"""

import argparse
import json
import math
import random
import re
import time
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from itertools import pairwise
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
from workbench.model.language import text_encoder, text_states, word_logits
from workbench.objectives.likelihood import pseudo_log_likelihood
from workbench.randomness import generator

LENGTH, VOCABULARY, WIDTH, BATCH = 32, 4000, 128, 128
DISCOUNT = 0.75


def read(file: Path) -> list[list[str]]:
    """The captions of each image, in an order that the file does not tell."""
    found: dict[str, list[str]] = defaultdict(list)
    text = file.read_text(encoding="utf-8")
    if file.suffix == ".json":
        for row in sorted(json.loads(text)["annotations"], key=lambda row: row["id"]):
            found[f"{row['image_id']:012d}"].append(" ".join(row["caption"].split()))
    else:
        for line in text.splitlines():
            name, _, caption = line.partition("\t")
            found[name.partition("#")[0]].append(" ".join(caption.split()))
    names = sorted(found)
    random.Random(0).shuffle(names)
    return [found[name] for name in names]


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


class Trigrams:
    """A trigram model with absolute discounting that backs off to bigrams, words, and a uniform distribution."""

    def __init__(self, captions: Sequence[str]) -> None:
        self.seen: Counter[tuple[str, ...]] = Counter()
        self.total: Counter[tuple[str, ...]] = Counter()
        self.kinds: Counter[tuple[str, ...]] = Counter()
        for caption in captions:
            for before, word in _steps(caption):
                for length in range(3):
                    history = before[len(before) - length :]
                    self.kinds[history] += (*history, word) not in self.seen
                    self.seen[*history, word] += 1
                    self.total[history] += 1

    def __call__(self, captions: Sequence[str]) -> np.ndarray:
        return np.array([sum(math.log(self._chance(b, w)) for b, w in _steps(caption)) for caption in captions])

    def _chance(self, history: tuple[str, ...], word: str) -> float:
        shorter = self._chance(history[1:], word) if history else 1 / (self.kinds[()] + 1)
        if not self.total[history]:
            return shorter
        left = DISCOUNT * self.kinds[history] * shorter
        return (max(self.seen[*history, word] - DISCOUNT, 0) + left) / self.total[history]


def _steps(caption: str) -> Iterator[tuple[tuple[str, str], str]]:
    words = ["<s>", "<s>", *re.findall(r"[a-z0-9']+", caption.lower()), "</s>"]
    return zip(pairwise(words), words[2:], strict=False)


def told(scores: np.ndarray) -> float:
    """The share of pairs [N, 2] whose first member scores above the second; equal ones count half."""
    gap = scores[:, 0] - scores[:, 1]
    return float(np.mean((gap > 0) + 0.5 * (gap == 0)))


def main() -> None:
    asked = argparse.ArgumentParser(description=__doc__)
    asked.add_argument("file", type=Path)
    asked.add_argument("--more", type=Path, help="further captions, which the language encoder alone is trained on")
    asked.add_argument("--images", type=int, default=2000, help="with foils; one caption of each")
    asked.add_argument("--steps", type=int, default=2500)
    asked.add_argument("--keep", type=Path)
    asked.add_argument("--show", type=int, default=0)
    given = asked.parse_args()
    torch.set_num_threads(1)
    images = read(given.file)
    held, others = images[: given.images], images[given.images :]
    known = [caption for image in others for caption in image]
    more = [caption for image in read(given.more) for caption in image] if given.more else []
    language, tokeniser = language_of(known + more, given.steps, given.keep)
    scored = Counter[str]()

    def likelihood(texts: Sequence[str]) -> np.ndarray:
        scored["texts"] += len(texts)
        return pseudo_log_likelihood(language, tokeniser.encode(texts), tokeniser.vocabulary)

    began = time.perf_counter()
    nouns = learn_nouns(others)
    read_in = time.perf_counter() - began
    captions = [Captioned(image[0], tuple(image)) for image in held]
    began = time.perf_counter()
    foils = make_foils(captions, nouns, likelihood, 0)
    seconds = (time.perf_counter() - began) / len(captions) * 1000
    print(
        f"{len(nouns.words):,} nouns of {len(known):,} captions read in {read_in:.1f} s; foils of 1,000 captions in {seconds:.0f} s, "
        f"{scored['texts'] / len(captions):.1f} texts scored a caption"
    )
    if given.keep:
        pl.DataFrame({"caption": [each.text for each in captions]}).hstack(foils).write_parquet(
            given.keep / "foils.parquet"
        )

    trigrams, rng = Trigrams(known), np.random.default_rng(0)
    made = [candidates(captioned, nouns) for captioned in captions]
    before = {
        kind: [(each.text, str(rng.choice(of[kind]))) for each, of in zip(captions, made, strict=True) if of[kind]]
        for kind in RULES
    }
    after = {
        kind: [(each.text, foil) for each, foil in zip(captions, foils[kind], strict=True) if foil] for kind in RULES
    }
    print(
        f"{'kind':22s}{'captions':>10s}{'encoder':>10s}{'trigrams':>10s}{'kept':>8s}{'encoder':>10s}{'trigrams':>10s}"
    )
    for kind in [*RULES, "all"]:
        row = ""
        for pairs in (before, after):
            chosen = [pair for each in RULES for pair in pairs[each] if kind in (each, "all")]
            shares = (
                [
                    told(np.stack([score([pair[side] for pair in chosen]) for side in (0, 1)], axis=1))
                    for score in (likelihood, trigrams)
                ]
                if chosen
                else [math.nan] * 2
            )
            row += f"{len(chosen):>{10 if pairs is before else 8},}{shares[0]:>10.3f}{shares[1]:>10.3f}"
        print(f"{kind:22s}{row}", flush=True)
    for kind in RULES if given.show else ():
        shown = [after[kind][place] for place in np.random.default_rng(1).permutation(len(after[kind]))[: given.show]]
        print(f"\n{kind}", *(f"  {true}\n  {false}" for true, false in shown), sep="\n")


if __name__ == "__main__":
    main()
