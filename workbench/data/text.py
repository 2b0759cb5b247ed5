"""Tokenisers trained on the corpus, in RoBERTa's layout of special tokens."""

import os
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors
from torch import Tensor

from workbench.errors import UserError, first_line

SPECIAL = ("<s>", "<pad>", "</s>", "<unk>", "<mask>")
START, PAD, END, UNKNOWN, MASK = range(len(SPECIAL))


@dataclass(frozen=True)
class Tokeniser:
    """Captions to padded token ids int64 [B, L] and back."""

    inner: Tokenizer
    max_length: int
    mask_id: int = MASK  # the inner tokeniser's; outside, <mask> and whatever it has as MASK change places

    @property
    def vocabulary(self) -> int:
        return self.inner.get_vocab_size()

    def encode(self, captions: Sequence[str]) -> np.ndarray:
        """Token ids int64 [B, max_length]: `<s>` ... `</s>`, then padding; longer captions are cut."""
        rows = np.full((len(captions), self.max_length), PAD, dtype=np.int64)
        for row, encoding in zip(rows, self.inner.encode_batch_fast(list(captions)), strict=True):
            ids = encoding.ids[: self.max_length]
            if len(encoding.ids) > self.max_length:
                ids[-1] = END
            row[: len(ids)] = ids
        swapped = np.where(rows == MASK, self.mask_id, rows)
        return np.where(rows == self.mask_id, MASK, swapped)

    def decode(self, ids: Sequence[int], special: bool = False) -> str:
        """A caption's text; `special` keeps tokens such as `<mask>`."""
        return str(
            self.inner.decode([self._swap(int(token)) for token in ids], skip_special_tokens=not special).strip()
        )

    def _swap(self, token: int) -> int:
        return self.mask_id if token == MASK else MASK if token == self.mask_id else token

    def word_id(self, word: str) -> int | None:
        """The id of a word that is one token of the vocabulary, else None."""
        for form in (f"Ġ{word.lower()}", word.lower()):
            found: int | None = self.inner.token_to_id(form)
            if found is not None:
                return self._swap(found)
        return None

    def word_starts(self) -> np.ndarray:
        """bool [vocabulary]: the tokens that begin a word, for WordPiece (`##` goes on) and byte-level BPE (`Ġ` begins)."""
        tokens = [self.inner.id_to_token(self._swap(token)) or "" for token in range(self.vocabulary)]
        if any(token.startswith("##") for token in tokens):
            return np.array([not token.startswith("##") for token in tokens])
        if any(token.startswith("Ġ") for token in tokens):
            return np.array([token.startswith("Ġ") for token in tokens])
        return np.ones(len(tokens), dtype=bool)

    def synonyms(self, sets: Iterable[Sequence[str]]) -> np.ndarray:
        """int64 [vocabulary, K]: the ids that mean the same as each token, itself first, padded by itself."""
        groups = [[i for i in map(self.word_id, names) if i is not None] for names in sets]
        widest = max([1, *map(len, groups)])
        table = np.tile(np.arange(self.vocabulary)[:, None], (1, widest))
        for group in groups:
            for token in group:
                others = [other for other in group if other != token]
                table[token, 1 : 1 + len(others)] = others
        return table


def train_tokeniser(captions: Iterable[str], vocabulary: int, max_length: int) -> Tokeniser:
    """A lower-casing WordPiece tokeniser: the most frequent words are one token each, others fall into characters.

    The vocabulary is counted here and not left to the library's trainer, which breaks ties by the order of a hash map:
    two runs on one corpus gave different ids, and with them different models.
    """
    normaliser, splitter = normalizers.BertNormalizer(lowercase=True), pre_tokenizers.BertPreTokenizer()
    counts = Counter(
        word for caption in captions for word, _ in splitter.pre_tokenize_str(normaliser.normalize_str(caption))
    )
    letters = sorted({letter for word in counts for letter in word})
    pieces = [*SPECIAL, *letters, *(f"##{letter}" for letter in letters)]
    by_frequency = sorted(counts, key=lambda word: (-counts[word], word))
    words = [word for word in by_frequency if len(word) > 1][: max(0, vocabulary - len(pieces))]
    table = {piece: place for place, piece in enumerate([*pieces, *words])}
    inner = Tokenizer(models.WordPiece(table, unk_token="<unk>"))
    inner.normalizer, inner.pre_tokenizer, inner.decoder = normaliser, splitter, decoders.WordPiece()
    inner.add_special_tokens(list(SPECIAL))
    inner.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", special_tokens=[("<s>", START), ("</s>", END)]
    )
    return Tokeniser(inner, max_length)


def save_tokeniser(tokeniser: Tokeniser, path: Path) -> None:
    tokeniser.inner.save(str(path))


def load_tokeniser(path: Path, max_length: int) -> Tokeniser:
    return Tokeniser(Tokenizer.from_file(str(path)), max_length)


def read_tokeniser(text: str, max_length: int) -> Tokeniser:
    """A tokeniser from the JSON that it is kept as."""
    return Tokeniser(Tokenizer.from_str(text), max_length)


def padding_mask(token_ids: Tensor) -> Tensor | None:
    """bool [B, L]: what may be read of padded captions int64 [B, L]; None where nothing is padded, which attention is faster
    without."""
    mask = token_ids != PAD
    return None if bool(mask.all()) else mask


def trim(token_ids: np.ndarray) -> np.ndarray:
    """Cuts the columns that are padding in every row of int64 [B, L]."""
    return token_ids[:, : int((token_ids != PAD).sum(axis=1).max())]


def pretrained_tokeniser(where: str, max_length: int) -> Tokeniser:
    """RoBERTa's tokeniser from a folder or the hub. Its <mask> is its last token, ours is the fifth: the two change places,
    here and in the rows of pre-trained weights (`model/encoders.py`)."""
    from transformers import AutoTokenizer

    try:
        inner: Tokenizer = AutoTokenizer.from_pretrained(os.path.expanduser(where)).backend_tokenizer
    except (OSError, ValueError) as error:
        raise UserError(
            f"`data.tokeniser`: no tokeniser can be read from `{where}` ({first_line(error)}); give a folder that holds one, or a "
            "name on a hub that can be reached."
        ) from error
    inner.no_padding()
    inner.no_truncation()
    expected = dict(zip(SPECIAL[:MASK], range(MASK), strict=True))
    mask = inner.token_to_id("<mask>")
    if mask is None or any(inner.token_to_id(token) != place for token, place in expected.items()):
        raise UserError(f"`data.tokeniser`: `{where}` does not have RoBERTa's special tokens {', '.join(SPECIAL)}.")
    return Tokeniser(inner, max_length, mask)
