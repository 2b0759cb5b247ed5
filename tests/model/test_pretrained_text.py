from pathlib import Path

import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast, RobertaConfig, RobertaForMaskedLM

from workbench.config.schema import Fusion, Settings, Text
from workbench.data.masking import choose_positions
from workbench.data.text import MASK, PAD, SPECIAL, Tokeniser, pretrained_tokeniser
from workbench.errors import UserError
from workbench.model.encoders import text_encoder
from workbench.model.vilta import ViLTA
from workbench.randomness import generator

CAPTIONS = [
    "an aeroplane above the clouds",
    "a red umbrella left of a crown",
    "the anchor is blue",
    "Two cats, one hat.",
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small RoBERTa as transformers saves it: byte-level BPE, <mask> as its last token."""
    home = tmp_path_factory.mktemp("roberta")
    inner = Tokenizer(models.BPE(unk_token="<unk>"))
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=330,
        special_tokens=list(SPECIAL[:MASK]),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    inner.train_from_iterator(CAPTIONS, trainer)
    inner.add_special_tokens(["<mask>"])
    inner.post_processor = processors.RobertaProcessing(("</s>", 2), ("<s>", 0), add_prefix_space=False)
    PreTrainedTokenizerFast(tokenizer_object=inner, unk_token="<unk>", mask_token="<mask>").save_pretrained(home)
    torch.manual_seed(0)
    config = RobertaConfig(
        vocab_size=inner.get_vocab_size(),
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=32,
        max_position_embeddings=40,
        type_vocab_size=1,
    )
    language = RobertaForMaskedLM(config)
    torch.nn.init.normal_(language.lm_head.bias)
    language.save_pretrained(home)
    return home


def test_captions_survive_and_the_mask_is_ours(folder: Path) -> None:
    tokeniser = pretrained_tokeniser(str(folder), 30)
    ids = tokeniser.encode(CAPTIONS)
    assert [tokeniser.decode([token for token in row if token not in (0, PAD, 2)]) for row in ids] == CAPTIONS
    assert tokeniser.encode(["<mask>"])[0, 1] == MASK
    assert (ids != MASK).all()
    assert choose_positions(ids, 0.5, generator("t"), tokeniser.word_starts()).any(axis=1).all()
    assert tokeniser.word_id("red") == tokeniser.encode(["a red"])[0, 2]


def test_pre_trained_logits_are_those_of_transformers(folder: Path) -> None:
    theirs = RobertaForMaskedLM.from_pretrained(folder).eval()
    tokeniser = pretrained_tokeniser(str(folder), 30)
    ours = text_encoder(Text(weights=str(folder), layers=2), 16, tokeniser.vocabulary, 30).eval()
    swapped = torch.arange(tokeniser.vocabulary)
    swapped[[MASK, -1]] = swapped[[-1, MASK]]
    here = torch.from_numpy(tokeniser.encode(["a red <mask> left of a crown"]))
    assert MASK in here
    with torch.no_grad():
        mask = (here != PAD).long()
        expected = theirs(swapped[here], attention_mask=mask).logits
        torch.testing.assert_close(ours(here, attention_mask=mask).logits, expected[..., swapped])


def test_the_fused_head_can_start_as_the_language_encoders_own(folder: Path) -> None:
    # RoBERTa's own epsilon, so that only the weights decide.
    changes = {"width": 16, "text": Text(weights=str(folder), layers=2), "fusion": Fusion(norm_epsilon=1e-12)}
    config = Settings().model.model_copy(update=changes)
    model = ViLTA(config, 64, pretrained_tokeniser(str(folder), 30).vocabulary, 30).eval()
    states = torch.randn(3, 16)
    with torch.no_grad():
        fresh = model.mlm_logits(states)
        model.copy_language_head()
        torch.testing.assert_close(model.mlm_logits(states), model.predict_words(states), rtol=0, atol=1e-4)
    assert not torch.allclose(fresh, model.mlm_logits(states))


def test_what_does_not_fit_is_one_sentence(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no RoBERTa can be read"):
        text_encoder(Text(weights=str(tmp_path / "nowhere")), 16, 330, 30)
    with pytest.raises(UserError, match="hidden_size 16"):
        text_encoder(Text(weights=str(folder)), 32, 330, 30)
    with pytest.raises(UserError, match="no tokeniser can be read"):
        pretrained_tokeniser(str(tmp_path / "nowhere"), 30)
    odd = Tokenizer(models.WordLevel({"a": 0}, "a"))
    PreTrainedTokenizerFast(tokenizer_object=odd).save_pretrained(tmp_path / "odd")
    with pytest.raises(UserError, match="special tokens"):
        pretrained_tokeniser(str(tmp_path / "odd"), 30)


def test_a_corpus_tokeniser_swaps_nothing() -> None:
    inner = Tokenizer(models.WordLevel({token: place for place, token in enumerate((*SPECIAL, "cat"))}, "<unk>"))
    assert Tokeniser(inner, 4).encode(["cat"])[0, 0] == 5
