"""Language encoders of each family, with their own tokenisers, ids, positions and heads."""

from pathlib import Path

import huggingface_hub
import numpy as np
import pytest
import torch
from transformers import AutoModelForMaskedLM, AutoTokenizer

from tests.courses import run
from tests.model.families import FAMILIES, LONGEST, save_family
from workbench.config.schema import Settings, Text
from workbench.config.settings import apply
from workbench.data.masking import choose_positions, mask_tokens
from workbench.data.text import pretrained_tokeniser
from workbench.errors import UserError
from workbench.model.encoders import check_encoders
from workbench.model.language import encoder_layers, text_encoder, text_states, word_logits
from workbench.objectives.teachers import language_logits
from workbench.randomness import generator
from workbench.stop import Stopped
from workbench.training.prepare import prepare
from workbench.training.warm_start import new_model

CAPTIONS = [
    "a red circle left of the large star",
    "the green dog",
    "a blue zebra above a small striped square below a tree",
]


@pytest.fixture(scope="module", params=list(FAMILIES))
def home(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_family(request.param, tmp_path_factory.mktemp(request.param))


def test_token_ids_are_those_of_transformers(home: Path) -> None:
    theirs = AutoTokenizer.from_pretrained(home)
    tokeniser = pretrained_tokeniser(str(home), LONGEST)
    ids = tokeniser.encode(CAPTIONS)
    expected = theirs(CAPTIONS, padding="max_length", max_length=LONGEST)["input_ids"]
    assert ids.tolist() == expected
    assert tokeniser.mask == theirs.mask_token_id
    assert [tokeniser.decode(row) for row in ids[:2]] == CAPTIONS[:2]
    masked = tokeniser.encode([f"the {theirs.mask_token} dog"])[0]
    assert theirs.mask_token in tokeniser.decode(masked, special=True)
    assert theirs.pad_token not in tokeniser.decode(masked, special=True)
    cut = pretrained_tokeniser(str(home), 8).encode(CAPTIONS[:1])[0]
    assert cut[-1] == theirs.sep_token_id
    assert (cut[:-1] == ids[0, :7]).all()


def test_only_words_are_masked_and_put_in_their_place(home: Path) -> None:
    theirs = AutoTokenizer.from_pretrained(home)
    tokeniser = pretrained_tokeniser(str(home), LONGEST)
    vocabulary = tokeniser.vocabulary
    ids = np.repeat(tokeniser.encode(CAPTIONS), 200, axis=0)
    special = set(theirs.all_special_ids)
    chosen = choose_positions(ids, 1.0, generator("t"), vocabulary)
    assert (chosen == ~np.isin(ids, list(special))).all()
    masked = mask_tokens(ids, 0.5, generator("t"), vocabulary).token_ids.numpy()
    assert set(np.unique(masked[masked != ids]).tolist()) & special == {theirs.mask_token_id}
    words = choose_positions(ids[:1], 0.01, generator("t"), vocabulary, whole_words=True)
    assert tokeniser.decode(ids[0][words[0]]) in CAPTIONS[0].split()
    assert tokeniser.word_id("red") is not None


def test_states_are_those_of_a_mask_of_two_dimensions(home: Path) -> None:
    tokeniser = pretrained_tokeniser(str(home), LONGEST)
    language = text_encoder(Text(weights=str(home), layers=3), 99, tokeniser.size, LONGEST, tokeniser.pad).eval()
    ids = torch.from_numpy(tokeniser.encode(CAPTIONS))
    assert (ids == tokeniser.pad).any()
    with torch.no_grad():
        plain = language.base_model(ids, attention_mask=ids != tokeniser.pad).last_hidden_state
        assert torch.equal(text_states(language, ids), plain)


@pytest.mark.parametrize("length", [LONGEST, 20])
def test_logits_are_those_of_transformers(home: Path, length: int) -> None:
    theirs = AutoModelForMaskedLM.from_pretrained(home).eval()
    tokeniser = pretrained_tokeniser(str(home), length)
    ours = text_encoder(Text(weights=str(home), layers=3), 99, tokeniser.size, length, tokeniser.pad).eval()
    ids = torch.from_numpy(tokeniser.encode(CAPTIONS))
    real = ids != tokeniser.pad
    with torch.no_grad():
        expected = theirs(ids, attention_mask=real.long()).logits[..., : tokeniser.size]
        logits = word_logits(ours, text_states(ours, ids))
        assert logits.shape == (*ids.shape, tokeniser.size)
        torch.testing.assert_close(logits[real], expected[real], rtol=0, atol=1e-5)
        torch.testing.assert_close(language_logits(ours, ids, real), expected[real], rtol=0, atol=1e-5)
    assert len(list(encoder_layers(ours))) == 3


def of_family(settings: Settings, home: Path) -> Settings:
    return apply(
        settings,
        {
            "data.tokeniser": str(home),
            "data.max_length": 30,
            "data.train_pairs": 48,
            "data.eval_pairs": 16,
            "model.text.weights": str(home),
            "model.text.layers": 2,
            "warm_start.steps": 0,
            "warm_start.fused": False,
            "objectives.mlm.soft_labels": "frozen_lm",
            "objectives.itm.negatives": "synthesized",
            "objectives.itm.hard_ratio": 1.0,
            "objectives.itc.weight": 0.5,
            "optimisation.steps": 2,
            "optimisation.batch_size": 16,
            "optimisation.checkpoint_every": 1,
            "evaluation.every": 2,
            "evaluation.pairs": 16,
            "evaluation.final_pairs": 16,
            "evaluation.robustness_pairs": 0,
        },
    )


def test_each_family_trains_and_resumes_to_the_bit(home: Path, settings: Settings, tmp_path: Path) -> None:
    """With soft labels of the frozen encoder and negatives that the one in training writes; its width is not the
    model's."""
    changed = of_family(settings, home)
    assert changed.model.width != 24
    check_encoders(changed)
    prepared = prepare(changed, tmp_path / "cache", lambda *_: None)
    start = new_model(changed, prepared.corpus, 0)
    assert start.language.config.hidden_size == 24
    whole, _ = run(changed, prepared, tmp_path / "whole.pt")
    assert np.isfinite(list(whole.values())).all()
    with pytest.raises(Stopped):
        run(changed, prepared, tmp_path / "cut.pt", stop_at=1)
    assert run(changed, prepared, tmp_path / "cut.pt")[0] == whole


def test_the_fused_head_can_start_as_the_language_encoders_own(home: Path, settings: Settings, tmp_path: Path) -> None:
    epsilon = 1e-5 if "modernbert" in home.name else 1e-7 if "deberta" in home.name else 1e-12
    changed = apply(of_family(settings, home), {"model.width": 24, "model.fusion.norm_epsilon": epsilon})
    corpus = prepare(changed, tmp_path, lambda *_: None).corpus
    model = new_model(changed, corpus, 0).eval()
    states = torch.randn(3, 24)
    with torch.no_grad():
        fresh = model.mlm_logits(states)
        model.copy_language_head()
        torch.testing.assert_close(model.mlm_logits(states), model.predict_words(states), rtol=0, atol=1e-5)
    assert not torch.allclose(fresh, model.mlm_logits(states))


def test_what_does_not_fit_is_one_sentence(tmp_path: Path, settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    bert, roberta = (save_family(family, tmp_path / family) for family in ("bert", "roberta"))
    size, pad = pretrained_tokeniser(str(bert), 30).size, 0
    for weights, layers, length, said in (
        (tmp_path / "nowhere", 2, 30, "no masked language model can be read"),
        (bert, 5, 30, "has 3 layers, and `model.text.layers` asks for 5"),
        (bert, 2, 40, f"reads at most {LONGEST} tokens"),
    ):
        with pytest.raises(UserError, match=said):
            text_encoder(Text(weights=str(weights), layers=layers), 24, size, length, pad)
    with pytest.raises(UserError, match=r"set `data\.tokeniser` to its own"):
        text_encoder(Text(weights=str(roberta), layers=2), 24, size, 30, pad)
    with pytest.raises(UserError, match=r"`data\.tokeniser`: no tokeniser can be read"):
        pretrained_tokeniser(str(tmp_path / "nowhere"), 30)
    with pytest.raises(UserError, match="hf download"):
        pretrained_tokeniser("some/hub-name-of-nobody", 30)
    AutoModelForMaskedLM.from_pretrained(bert).base_model.save_pretrained(tmp_path / "headless")
    with pytest.raises(UserError, match="with its language-model head"):
        text_encoder(Text(weights=str(tmp_path / "headless"), layers=2), 24, size, 30, pad)
    same = apply(of_family(settings, bert), {"model.mlm_head": "language"})
    with pytest.raises(UserError, match=r"`model\.mlm_head: language`"):
        check_encoders(same)
