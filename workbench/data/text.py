"""Tokenisers: from captions to token ids and back, and the meaning of the ids."""

import os
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors
from torch import Tensor

from workbench.errors import UserError, first_line

# Special tokens of tokenisers that are trained on the captions; pre-trained ones have their own.
SPECIAL = ("<s>", "<pad>", "</s>", "<unk>", "<mask>")
START, PAD, END, UNKNOWN, MASK = range(len(SPECIAL))
WORD_MARKS = ("Ġ", "▁")  # before a token that begins a word, in byte-level BPE and in SentencePiece
UNUSED = re.compile(r"\[unused\d+\]")  # BERT's spare tokens


@dataclass(frozen=True)
class Vocabulary:
    """The meaning of a tokeniser's ids. `size`: their number V; `special`: ids that are not words, `pad` and `mask`
    among them; `word_starts` bool [V]: the tokens that begin a word."""

    size: int
    pad: int
    mask: int
    special: tuple[int, ...]
    word_starts: np.ndarray

    @classmethod
    def plain(cls, size: int) -> "Vocabulary":
        """The vocabulary of a tokeniser of `size` tokens, trained on captions, each of whose tokens is a word."""
        return cls(size, PAD, MASK, tuple(range(len(SPECIAL))), np.ones(size, dtype=bool))

    @cached_property
    def ordinary(self) -> np.ndarray:
        """bool [V]: all tokens that are not special."""
        ordinary = np.ones(self.size, dtype=bool)
        ordinary[list(self.special)] = False
        return ordinary

    @cached_property
    def ordinary_ids(self) -> np.ndarray:
        return np.flatnonzero(self.ordinary)

    def trim(self, token_ids: np.ndarray) -> np.ndarray:
        """Cuts the columns that are padding in every row of int64 [B, L]."""
        return trim(token_ids, self.pad)


@dataclass(frozen=True)
class Tokeniser:
    """Converts captions to padded token ids int64 [B, L] and back. `special`: the ids of all tokens that are not words;
    among these, `framing` ids such as `<s>` and padding carry no text."""

    inner: Tokenizer
    max_length: int
    pad: int = PAD
    mask: int = MASK
    special: tuple[int, ...] = tuple(range(len(SPECIAL)))
    framing: tuple[int, ...] = (START, PAD, END)

    @property
    def size(self) -> int:
        return self.inner.get_vocab_size()

    @cached_property
    def vocabulary(self) -> Vocabulary:
        return Vocabulary(self.size, self.pad, self.mask, self.special, self._word_starts())

    def encode(self, captions: Sequence[str]) -> np.ndarray:
        """Token ids int64 [B, max_length] with the tokeniser's own first and last token, then padding. Longer captions
        are cut before their last token."""
        rows = np.full((len(captions), self.max_length), self.pad, dtype=np.int64)
        for row, encoding in zip(rows, self.inner.encode_batch_fast(list(captions)), strict=True):
            ids = encoding.ids[: self.max_length]
            if len(encoding.ids) > self.max_length:
                ids[-1] = encoding.ids[-1]
            row[: len(ids)] = ids
        return rows

    def decode(self, ids: Sequence[int], special: bool = False) -> str:
        """The text of a caption; `special` keeps tokens such as `<mask>`, except those that frame a caption."""
        shown = [token for token in map(int, ids) if not special or token not in self.framing]
        return str(self.inner.decode(shown, skip_special_tokens=not special).strip())

    def word_id(self, word: str) -> int | None:
        """The id of a word that is one token of the vocabulary, else None."""
        for form in (*(f"{mark}{word.lower()}" for mark in WORD_MARKS), word.lower()):
            token: int | None = self.inner.token_to_id(form)
            if token is not None:
                return token
        return None

    def _word_starts(self) -> np.ndarray:
        """bool [V]: marks tokens that begin a word, in WordPiece (`##` continues), byte-level BPE or SentencePiece."""
        tokens = [self.inner.id_to_token(token) or "" for token in range(self.size)]
        for mark in WORD_MARKS:
            if any(token.startswith(mark) for token in tokens):
                return np.array([token.startswith(mark) for token in tokens])
        return np.array([not token.startswith("##") for token in tokens])

    def synonyms(self, sets: Iterable[Sequence[str]]) -> np.ndarray:
        """int64 [vocabulary, K]: the ids with the meaning of each token, the token itself first and as padding."""
        groups = [[i for i in map(self.word_id, names) if i is not None] for names in sets]
        widest = max([1, *map(len, groups)])
        table = np.tile(np.arange(self.size)[:, None], (1, widest))
        for group in groups:
            for token in group:
                others = [other for other in group if other != token]
                table[token, 1 : 1 + len(others)] = others
        return table


def train_tokeniser(captions: Iterable[str], vocabulary: int, max_length: int) -> Tokeniser:
    """Trains a lower-casing WordPiece tokeniser: frequent words are one token each, others are split into characters.

    The vocabulary is counted here instead of by the library's trainer, which breaks ties by the order of a hash map:
    two runs on the same corpus produced different ids, and with them different models.
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
    """A tokeniser from its JSON."""
    return Tokeniser(Tokenizer.from_str(text), max_length)


def padding_mask(token_ids: Tensor, pad: int) -> Tensor | None:
    """bool [B, L]: marks the tokens of padded captions int64 [B, L]. None if nothing is padded: attention is faster
    without a mask. On a GPU this is not checked, since the host would have to wait for the result."""
    mask = token_ids != pad
    return mask if mask.is_cuda or not bool(mask.all()) else None


def trim(token_ids: np.ndarray, pad: int) -> np.ndarray:
    """Cuts the columns that are padding in every row of int64 [B, L]."""
    return token_ids[:, : int((token_ids != pad).sum(axis=1).max())]


def pretrained_tokeniser(where: str, max_length: int) -> Tokeniser:
    """The tokeniser of a masked language model from a folder or the hub, with its own special tokens.

    Raises UserError if there is none, or if it has no token for padding or for a masked word.
    """
    from transformers import AutoTokenizer

    try:
        wrapper = AutoTokenizer.from_pretrained(os.path.expanduser(where))
        inner: Tokenizer = wrapper.backend_tokenizer
    except (OSError, ValueError, AttributeError, ImportError) as error:
        raise UserError(f"`data.tokeniser`: {unread('tokeniser', where, error)}") from error
    inner.no_padding()
    inner.no_truncation()
    if wrapper.pad_token_id is None or wrapper.mask_token_id is None:
        raise UserError(
            f"`data.tokeniser`: `{where}` has no special tokens for padding and masked words; use the tokeniser of a"
            " masked language model."
        )
    words = inner.get_vocab()
    added = {token for token, content in wrapper.added_tokens_decoder.items() if content.special}
    unused = {token for word, token in words.items() if UNUSED.fullmatch(word)}
    framing = {wrapper.pad_token_id, *inner.encode("").ids}
    special = {*wrapper.all_special_ids, *added, *unused}
    return Tokeniser(
        inner,
        max_length,
        wrapper.pad_token_id,
        wrapper.mask_token_id,
        tuple(sorted(special)),
        tuple(sorted(framing)),
    )


def unread(what: str, where: str, error: Exception) -> str:
    """A message why transformers cannot read something from a folder or a name on the hub, and how to get it."""
    if os.path.isdir(os.path.expanduser(where)):
        return (
            f"no {what} can be read from the folder `{where}` ({first_line(error)}); name one that transformers has"
            " saved."
        )
    return (
        f"no {what} can be read from `{where}` ({first_line(error)}); name a folder that holds one, or fetch it where"
        f" the hub can be reached: hf download {where}"
    )
