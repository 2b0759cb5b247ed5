import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer, models

from workbench.config.schema import Mlm, Settings
from workbench.config.settings import apply
from workbench.data.masking import choose_positions, hide_tokens, mask_tokens
from workbench.data.text import MASK, PAD, SPECIAL, Tokeniser, Vocabulary, trim
from workbench.distributed import ALONE
from workbench.model.vilta import ViLTA
from workbench.objectives.batch import BatchKey, BatchPart, draw_batch, draw_rewriting
from workbench.objectives.losses import likeliest, mlm_loss
from workbench.objectives.matching import match_batch, written_captions
from workbench.objectives.negatives import choose, hard_pairs, nucleus, synthesize, take_back
from workbench.objectives.step import alpha_at, losses, teacher_logits
from workbench.objectives.teachers import Teachers, make_teachers
from workbench.randomness import generator
from workbench.training.prepare import Prepared
from workbench.training.warm_start import new_model

IDS = np.array([[0, 10, 11, 12, 13, 14, 15, 16, 17, 2, 1, 1]] * 2000)


def test_masking_takes_the_stated_share_of_ordinary_tokens_80_10_10() -> None:
    masked = mask_tokens(IDS, 0.25, generator("t"), Vocabulary.plain(100))
    chosen = masked.positions.numpy()
    assert (chosen.sum(axis=1) == 2).all()
    assert not chosen[:, [0, 9, 10, 11]].any()
    after = masked.token_ids.numpy()
    assert (after[~chosen] == IDS[~chosen]).all()
    assert np.mean(after[chosen] == MASK) == pytest.approx(0.8, abs=0.02)
    assert np.mean(after[chosen] == IDS[chosen]) == pytest.approx(0.1 + 0.1 / 95, abs=0.02)


def test_a_caption_of_one_word_still_loses_it() -> None:
    hidden = hide_tokens(np.array([[0, 9, 2, 1]]), 0.1, generator("t"), Vocabulary.plain(100))
    assert hidden.token_ids.tolist() == [[0, MASK, 2, 1]]


def test_a_written_word_is_never_special_never_the_original_never_banned() -> None:
    vocabulary = 12
    original = torch.tensor([[0, 6, 7, 2]] * 3000)
    rows, columns = torch.tensor([[False, True, True, False]] * 3000).nonzero(as_tuple=True)
    banned = torch.arange(vocabulary)[:, None].repeat(1, 2)
    banned[6, 1], banned[7, 1] = 8, 9
    draws = torch.rand(6000, generator=torch.Generator().manual_seed(0))
    written = synthesize(torch.zeros(6000, vocabulary), original, (rows, columns), 1.0, banned, torch.arange(5), draws)
    assert (written[:, [0, 3]] == original[:, [0, 3]]).all()
    assert set(written[:, 1].tolist()) == set(range(len(SPECIAL), vocabulary)) - {6, 8}
    assert set(written[:, 2].tolist()) == set(range(len(SPECIAL), vocabulary)) - {7, 9}


def test_a_choice_is_the_inverse_of_the_distribution() -> None:
    probabilities = torch.tensor([[0.0, 0.25, 0.0, 0.75, 0.0]]).repeat(5, 1)
    draws = torch.tensor([0.0, 0.2499, 0.25, 0.9, 1 - 2**-24])
    assert choose(probabilities, draws).tolist() == [1, 1, 3, 3, 3]


def test_sampling_follows_the_temperature() -> None:
    original = torch.tensor([[6]] * 4000)
    logits = torch.zeros(4000, 9)
    logits[..., 7] = 1.0
    for temperature in (0.5, 2.0):
        written = synthesize(
            logits,
            original,
            (torch.arange(4000), torch.zeros(4000, dtype=torch.long)),
            temperature,
            torch.arange(9)[:, None],
            torch.arange(5),
            torch.rand(4000, generator=torch.Generator().manual_seed(0)),
        )
        odds = np.exp(1 / temperature)
        assert (written == 7).float().mean().item() == pytest.approx(odds / (odds + 2), abs=0.03)


@pytest.fixture(scope="module")
def features(prepared: Prepared) -> torch.Tensor:
    return torch.from_numpy(np.array(prepared.features["train"][:16])).float()


def part_of(settings: Settings, prepared: Prepared, foil_ids: np.ndarray | None = None) -> BatchPart:
    """The plan of step 3 for the first 16 pairs, in one piece."""
    pairs, vocabulary = prepared.corpus.train, prepared.corpus.tokeniser.vocabulary
    return draw_batch(
        pairs.token_ids[:16], foil_ids, settings.objectives, vocabulary, BatchKey(np.arange(16), 0, 0, 3)
    ).part()


def teachers_of(settings: Settings, prepared: Prepared, model: ViLTA) -> Teachers:
    corpus = prepared.corpus
    return make_teachers(settings.objectives, model, corpus)


def step_losses(
    settings: Settings, prepared: Prepared, features: torch.Tensor, **changes: object
) -> dict[str, torch.Tensor]:
    changed = apply(settings, {f"objectives.{name.replace('__', '.')}": value for name, value in changes.items()})
    model = new_model(changed, prepared.corpus, 0)
    model.load_state_dict(prepared.weights, strict=False)
    teachers = teachers_of(changed, prepared, model)
    objectives = changed.objectives
    return losses(model.eval(), features, part_of(changed, prepared), objectives, teachers, objectives.mlm.alpha)


def test_a_hard_ratio_of_zero_is_exactly_the_random_baseline(
    settings: Settings, prepared: Prepared, features: torch.Tensor
) -> None:
    random = step_losses(settings, prepared, features, itm__negatives="random_image", itm__hard_ratio=0.5)
    none = step_losses(settings, prepared, features, itm__negatives="synthesized", itm__hard_ratio=0.0)
    half = step_losses(settings, prepared, features, itm__negatives="synthesized", itm__hard_ratio=0.5)
    assert none == random
    assert half["itm_loss"] != random["itm_loss"]
    assert half["mlm_loss"] == random["mlm_loss"]


def test_a_larger_ratio_turns_more_of_the_same_negatives_into_hard_ones(
    settings: Settings, prepared: Prepared, features: torch.Tensor
) -> None:
    model = new_model(settings, prepared.corpus, 0).eval()
    token_ids = torch.from_numpy(trim(prepared.corpus.train.token_ids[:16], PAD))
    hard_rows = {}
    for ratio in (0.25, 0.5, 1.0):
        changed = apply(settings, {"objectives.itm.hard_ratio": ratio})
        teachers = teachers_of(changed, prepared, model)
        matched = match_batch(model, features, part_of(changed, prepared), changed.objectives, teachers, ALONE)
        own = matched.image_rows[:8]
        changed_text = (matched.token_ids[8:] != token_ids[own]).any(dim=1)
        assert matched.is_match.tolist() == [True] * 8 + [False] * 8
        assert (matched.token_ids[:8] == token_ids[own]).all()
        assert ((matched.image_rows[8:] == own) == changed_text).all()
        hard_rows[ratio] = set(own[changed_text].tolist())
        assert len(hard_rows[ratio]) == round(8 * ratio)
    assert hard_rows[0.25] < hard_rows[0.5] < hard_rows[1.0]


def test_a_foil_that_is_the_caption_itself_leaves_the_loss(
    settings: Settings, prepared: Prepared, features: torch.Tensor
) -> None:
    changed = apply(settings, {"objectives.itm.negatives": "foils", "objectives.itm.hard_ratio": 1.0})
    model = new_model(changed, prepared.corpus, 0).eval()
    same = part_of(changed, prepared, prepared.corpus.train.token_ids[:16])
    teachers = teachers_of(changed, prepared, model)
    matched = match_batch(model, features, same, changed.objectives, teachers, ALONE)
    assert matched.valid.tolist() == [True] * 8 + [False] * 8


def rewritten(settings: Settings, prepared: Prepared, **itm: object) -> tuple[np.ndarray, np.ndarray]:
    """256 training captions, and what the untrained model's generator makes of them."""
    changed = apply(settings, {f"objectives.itm.{name}": value for name, value in itm.items()})
    model = new_model(changed, prepared.corpus, 0)
    model.load_state_dict(prepared.weights, strict=False)
    teachers = teachers_of(changed, prepared, model.eval())
    captions = prepared.corpus.train.token_ids[:256]
    rewriting = draw_rewriting(captions, changed.objectives.itm, BatchKey(np.arange(256), 0), teachers.words.vocabulary)
    written = written_captions(model, torch.from_numpy(captions), rewriting, changed.objectives, teachers)
    return captions, written.numpy()


def test_the_filter_bans_synonyms(settings: Settings, prepared: Prepared) -> None:
    synonyms = prepared.corpus.synonyms
    for kind, expected in (("none", True), ("synonyms", False)):
        before, after = rewritten(settings, prepared, false_negative_filter=kind, synthesis_mask_ratio=1.0)
        changed = before != after
        assert (synonyms[before[changed]] == after[changed][:, None]).any() == expected


def test_the_teacher_takes_plausible_words_back(settings: Settings, prepared: Prepared) -> None:
    before, free = rewritten(settings, prepared, false_negative_filter="none")
    _, strict = rewritten(settings, prepared, false_negative_filter="teacher", filter_ratio=1.0)
    _, lax = rewritten(settings, prepared, false_negative_filter="teacher", filter_ratio=1e9)
    assert (lax == free).all()
    kept = strict != before
    assert (strict[kept] == free[kept]).all()
    assert 0 < kept.sum() < (free != before).sum()


def test_take_back_compares_with_the_original_word() -> None:
    # The judge finds word 6 twice as likely as the original 5, and word 7 half as likely.
    logits = torch.tensor([[0.0] * 5 + [0.0, math.log(2), -math.log(2)]] * 2)
    original, written = torch.tensor([[5, 5]]), torch.tensor([[6, 7]])
    everywhere = (torch.tensor([0, 0]), torch.tensor([0, 1]))
    assert take_back(written, original, everywhere, logits, 1.0).tolist() == [[5, 7]]
    assert take_back(written, original, everywhere, logits, 2.5).tolist() == [[6, 7]]
    assert take_back(written, original, everywhere, logits, 0.4).tolist() == [[5, 5]]


def test_top_k_and_top_p_leave_the_likeliest_words(settings: Settings, prepared: Prepared) -> None:
    probabilities = torch.tensor([[0.5, 0.3, 0.15, 0.05]]).log()
    assert nucleus(probabilities, 0.79).isfinite().tolist() == [[True, True, False, False]]
    assert nucleus(probabilities, 0.81).isfinite().tolist() == [[True, True, True, False]]
    assert nucleus(probabilities, 1e-9).isfinite().tolist() == [[True, False, False, False]]
    assert likeliest(probabilities, 2).isfinite().tolist() == [[True, True, False, False]]
    assert likeliest(probabilities, 9).isfinite().all()
    _, greedy = rewritten(settings, prepared, top_k=1)
    _, cold = rewritten(settings, prepared, top_p=1e-6)
    _, free = rewritten(settings, prepared)
    assert (greedy == cold).all()
    assert (greedy != free).any()


def test_every_generator_writes_otherwise(settings: Settings, prepared: Prepared) -> None:
    captions, current = rewritten(settings, prepared, generator="current")
    _, frozen = rewritten(settings, prepared, generator="frozen")
    _, ema = rewritten(settings, prepared, generator="ema")
    _, unigram_made = rewritten(settings, prepared, generator="unigram")
    # Before the first step the three are one and the same language encoder.
    assert (current == frozen).all()
    assert (current == ema).all()
    assert (current != unigram_made).any()
    assert (unigram_made != captions).any()


def test_the_momentum_model_follows_by_hand_computed_averages(settings: Settings, prepared: Prepared) -> None:
    changed = apply(settings, {"objectives.mlm.soft_labels": "ema"})
    model = new_model(changed, prepared.corpus, 0)
    teachers = teachers_of(changed, prepared, model)
    before = model.itm_head.bias.detach().clone()
    with torch.no_grad():
        model.itm_head.bias.add_(1.0)
    teachers.follow(model, 0.9)
    teachers.follow(model, 0.9)
    assert teachers.ema is not None
    assert torch.allclose(teachers.ema.itm_head.bias, before + 0.19)


def test_soft_labels_are_what_their_kind_says(settings: Settings, prepared: Prepared, features: torch.Tensor) -> None:
    made = {}
    token_ids = torch.from_numpy(trim(prepared.corpus.train.token_ids[:16], PAD))
    rows, columns = (token_ids > 4).nonzero(as_tuple=True)
    places = (rows, columns)
    for kind in ("frozen_lm", "ema", "smoothing", "unigram"):
        changed = apply(settings, {"objectives.mlm.soft_labels": kind})
        model = new_model(changed, prepared.corpus, 0)
        model.load_state_dict(prepared.weights, strict=False)
        teachers = teachers_of(changed, prepared, model.eval())
        made[kind] = teacher_logits(changed.objectives.mlm, teachers, features, token_ids, places)
        if kind == "ema":
            fused, _ = model.fuse(model.encode_text(token_ids), model.adapt_image(features), token_ids)
            assert torch.allclose(made[kind], model.mlm_logits(fused[places]), atol=1e-5)
        if kind == "frozen_lm":
            assert torch.allclose(made[kind], model.predict_words(model.encode_text(token_ids)[places]), atol=1e-5)
    vocabulary = prepared.corpus.tokeniser.size
    assert torch.allclose(made["smoothing"].softmax(-1), torch.tensor(1 / vocabulary))
    counts = np.bincount(prepared.corpus.train.token_ids.ravel(), minlength=vocabulary)[5:] + 1
    assert torch.allclose(
        made["unigram"].softmax(-1)[0, 5:], torch.from_numpy(counts / counts.sum()).float(), atol=1e-6
    )
    # A very hot teacher knows nothing: the loss approaches that of uniform smoothing.
    labels = token_ids[places]
    logits = torch.randn(len(labels), vocabulary, generator=torch.Generator().manual_seed(0))
    hot = [mlm_loss(logits, labels, made[kind], 1.0, 1e3) / 1e6 for kind in ("frozen_lm", "smoothing")]
    assert hot[0].item() == pytest.approx(hot[1].item(), abs=1e-3)


def test_hard_pairs_are_similar_and_never_the_same_caption() -> None:
    token_ids = torch.tensor([[5], [6], [5], [7]]).repeat(500, 1)[:4]
    similarity = torch.tensor([[9.0, 1.0, 9.0, 0.0], [0.0, 9.0, 0.0, 1.0], [9.0, 0.0, 9.0, 1.0], [1.0, 0.0, 0.5, 9.0]])
    text, image = hard_pairs(similarity, token_ids, 0.01, *torch.rand(2, 4, generator=torch.Generator().manual_seed(0)))
    # Row 0's likeliest other caption is 2, but it reads the same; so is row 2's.
    assert text.tolist() == [1, 3, 3, 0]
    # Column 1: image 0 is the likeliest besides its own; column 3: images 1 and 2 tie.
    assert image[1].item() == 0
    assert image[3].item() in (1, 2)
    warm, _ = hard_pairs(similarity, token_ids, 1e6, *torch.rand(2, 4, generator=torch.Generator().manual_seed(1)))
    assert all(token_ids[row] != token_ids[other] for row, other in enumerate(warm.tolist()))


def test_a_batch_of_equal_captions_has_no_hard_pair_and_no_error() -> None:
    text, image = hard_pairs(torch.zeros(3, 3), torch.full((3, 2), 9), 0.1, torch.rand(3), torch.rand(3))
    assert text.shape == image.shape == (3,)


def test_in_batch_hard_negatives_are_wrong_captions_and_wrong_images_by_turns(
    settings: Settings, prepared: Prepared, features: torch.Tensor
) -> None:
    changed = apply(settings, {"objectives.itm.negatives": "in_batch_hard", "objectives.itm.hard_ratio": 1.0})
    model = new_model(changed, prepared.corpus, 0).eval()
    teachers = teachers_of(changed, prepared, model)
    token_ids = torch.from_numpy(trim(prepared.corpus.train.token_ids[:16], PAD))
    matched = match_batch(model, features, part_of(changed, prepared), changed.objectives, teachers, ALONE)
    own, false_rows, false_text = matched.image_rows[:8], matched.image_rows[8:], matched.token_ids[8:]
    assert (false_rows[::2] == own[::2]).all()
    assert (false_text[::2] != token_ids[own[::2]]).any(dim=1).all()
    assert (false_rows[1::2] != own[1::2]).all()
    assert (false_text[1::2] == token_ids[own[1::2]]).all()
    assert matched.valid.all()


def test_alpha_rises_over_its_ramp() -> None:
    ramped = Mlm(alpha=0.4, alpha_ramp=0.5)
    assert [alpha_at(ramped, step, 8) for step in (0, 1, 2, 4, 7)] == pytest.approx([0, 0.1, 0.2, 0.4, 0.4])
    assert alpha_at(Mlm(alpha=0.4), 0, 8) == 0.4


@pytest.mark.parametrize(
    ("tokens", "starts"),
    [
        (["<s>", "un", "##believ", "##able", "cat", "</s>", "<pad>"], [0, 1, 0, 0, 1, 0, 0]),
        (["<s>", "un", "believ", "able", "Ġcat", "</s>", "<pad>"], [0, 0, 0, 0, 1, 0, 0]),
    ],
)
def test_whole_words_are_masked_whole(tokens: list[str], starts: list[int]) -> None:
    """The second case is byte-level BPE as RoBERTa has it: the first word of a caption has no mark."""
    ids = np.array([[0, 10, 11, 12, 13, 2, 1]] * 400)
    table = np.zeros(20, dtype=bool)
    table[ids[0]] = np.array(starts, dtype=bool)
    chosen = choose_positions(
        ids, 0.5, generator("t"), replace(Vocabulary.plain(20), word_starts=table), whole_words=True
    )
    patterns = {tuple(row) for row in chosen[:, 1:5].tolist()}
    assert patterns == {(True, True, True, False), (False, False, False, True)}
    assert not chosen[:, [0, 5, 6]].any()


def test_word_starts_of_all_kinds_of_tokeniser() -> None:
    for vocabulary, expected in (
        ({"<s>": 0, "cat": 1, "##s": 2}, [True, True, False]),
        ({"<s>": 0, "cat": 1, "Ġcat": 2}, [False, False, True]),
        ({"<s>": 0, "un": 1, "▁cat": 2}, [False, False, True]),
        ({"<s>": 0, "cat": 1}, [True, True]),
    ):
        inner = Tokenizer(models.WordLevel(vocabulary, unk_token="<s>"))
        assert Tokeniser(inner, 8, special=(0,)).vocabulary.word_starts.tolist() == expected
