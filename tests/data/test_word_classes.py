import polars as pl
import pytest

from workbench.data.text import Tokeniser, train_tokeniser
from workbench.data.word_classes import FUNCTION_WORDS, ContentWords, closed_class

ENGLISH = [
    "A picture of two dogs, playing in the snow.",
    "a picture of the old man's hat",
    "A picture of some people who are sitting near a wooden bench",
    "the photograph shows an umbrella beneath the table",
]


def content_of(tokeniser: Tokeniser, captions: list[str], closed: frozenset[str]) -> list[str]:
    """What is left of each caption without the words of closed classes."""
    ids = tokeniser.vocabulary.trim(tokeniser.encode(captions))
    chosen = ContentWords.of(tokeniser, closed).of_captions(ids)
    return [tokeniser.decode(row[kept].tolist()) for row, kept in zip(ids, chosen, strict=True)]


@pytest.mark.parametrize("vocabulary", [300, 64])
def test_content_words_of_english_captions_whole_or_in_pieces(vocabulary: int) -> None:
    """Of 64 tokens most words are spelt by letters: each piece belongs to its word."""
    many = closed_class(pl.Series(ENGLISH + [f"word{n}" for n in range(40)]))
    assert content_of(train_tokeniser(ENGLISH, vocabulary, 80), ENGLISH, many) == [
        "picture two dogs playing snow",
        "picture old man hat",
        "picture people sitting wooden bench",
        "photograph shows umbrella table",
    ]


def test_what_every_fifth_caption_says_is_no_content_unless_the_lexicon_names_it() -> None:
    captions = ["a picture of a red cat", "zwei Hunde und ein Ball", "zwei Katzen und der Schnee", *["eine Maus"] * 8]
    closed = closed_class(pl.Series([*captions[:3], *captions[1:3]]))
    assert {"zwei", "und"} <= closed
    assert "red" not in closed_class(pl.Series(["a red picture"] * 3))
    assert "picture" in closed_class(pl.Series(["a red picture"] * 3))
    assert {"a", "beneath", "above"} <= closed
    assert not {"left", "two", "mouse"} & closed_class(pl.Series(["two left mouse"] * 3 + ["x"] * 20))


def test_a_caption_of_function_words_has_no_content() -> None:
    tokeniser = train_tokeniser(["there is one of these", "a cat"], 200, 20)
    words = ContentWords.of(tokeniser, FUNCTION_WORDS)
    ids = tokeniser.encode(["there is one of these", "a cat"])
    assert words.of_captions(ids).sum(axis=1).tolist() == [0, 1]
    assert not words.of_captions(ids)[:, 0].any()


def test_byte_level_pieces_after_a_space_and_with_capitals() -> None:
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors

    pieces = ["<s>", "<pad>", "</s>", "<unk>", "<mask>", "The"]
    letters = [chr(n) for n in range(33, 127)] + ["Ġ"]
    table = {piece: place for place, piece in enumerate(dict.fromkeys(pieces + letters))}
    merges = [("Ġ", "d"), ("Ġd", "o"), ("Ġdo", "g"), ("Ġ", "o"), ("Ġo", "n"), ("Ġ", "t"), ("Ġt", "h"), ("Ġth", "e")]
    for left, right in merges:
        table.setdefault(left + right, len(table))
    inner = Tokenizer(models.BPE(table, merges, unk_token="<unk>"))
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = decoders.ByteLevel()
    inner.add_special_tokens(pieces[:5])
    inner.post_processor = processors.TemplateProcessing(single="<s> $A </s>", special_tokens=[("<s>", 0), ("</s>", 2)])
    tokeniser = Tokeniser(inner, 32)
    words = ContentWords.of(tokeniser, FUNCTION_WORDS)
    ids = tokeniser.encode(["The cat, on the dog"])
    text = [inner.id_to_token(int(token)) for token in ids[0][words.of_captions(ids)[0]]]
    assert text == ["c", "a", "t", "Ġdog"]
