import math

import pytest
import torch
import torch.nn.functional as F

from workbench.model.similarity import late_interaction
from workbench.objectives.losses import contrastive_loss, itm_loss, mlm_loss, words_loss


def test_alpha_zero_and_no_teacher_are_exactly_the_one_hot_loss() -> None:
    torch.manual_seed(0)
    logits, labels = torch.randn(7, 11), torch.randint(0, 11, (7,))
    expected = F.cross_entropy(logits, labels)
    assert mlm_loss(logits, labels, torch.randn(7, 11), 0.0, 2.0) == expected
    assert mlm_loss(logits, labels, None, 0.7, 2.0) == expected


def test_the_soft_term_equals_a_hand_computed_case() -> None:
    # p = softmax([0, ln 3] / 1) = [1/4, 3/4]; teacher at T = 1: [1/2, 1/2]; label 1.
    logits, teacher = torch.tensor([[0.0, math.log(3)]]), torch.tensor([[0.0, 0.0]])
    one_hot = -math.log(3 / 4)
    kl = 0.5 * math.log(0.5 / 0.25) + 0.5 * math.log(0.5 / 0.75)
    assert mlm_loss(logits, torch.tensor([1]), teacher, 0.4, 1.0).item() == pytest.approx(0.6 * one_hot + 0.4 * kl)
    # At T = 2 the student is softmax([0, ln 3 / 2]) = [1, sqrt 3] / (1 + sqrt 3), and the term is scaled by 4.
    p = [1 / (1 + math.sqrt(3)), math.sqrt(3) / (1 + math.sqrt(3))]
    kl = 0.5 * math.log(0.5 / p[0]) + 0.5 * math.log(0.5 / p[1])
    assert mlm_loss(logits, torch.tensor([1]), teacher, 0.4, 2.0).item() == pytest.approx(0.6 * one_hot + 0.4 * 4 * kl)


def test_the_gradient_agrees_with_finite_differences_in_float64() -> None:
    torch.manual_seed(1)
    logits = torch.randn(3, 5, dtype=torch.float64, requires_grad=True)
    labels, teacher = torch.tensor([0, 4, 2]), torch.randn(3, 5, dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda x: mlm_loss(x, labels, teacher, 0.3, 1.7), (logits,))


def test_no_masked_token_gives_a_loss_of_zero_with_a_gradient() -> None:
    logits = torch.randn(0, 5, requires_grad=True)
    loss = mlm_loss(logits, torch.empty(0, dtype=torch.long), None, 0.5, 1.0)
    assert loss.item() == 0.0
    loss.backward()


def test_rows_that_are_no_negatives_leave_the_itm_loss() -> None:
    logits = torch.tensor([[0.0, 2.0], [1.0, -1.0], [5.0, -5.0]])
    is_match, valid = torch.tensor([True, False, True]), torch.tensor([True, True, False])
    expected = (math.log(1 + math.exp(-2)) + math.log(1 + math.exp(-2))) / 2
    assert itm_loss(logits, is_match, valid).item() == pytest.approx(expected, rel=1e-6)


def test_late_interaction_takes_each_words_best_token() -> None:
    image = torch.tensor([[[1.0, 0.0], [0.0, 1.0]]])
    text = torch.tensor([[[1.0, 0.0], [0.6, 0.8], [0.0, -1.0]]])
    mask = torch.tensor([[True, True, False]])
    assert late_interaction(image, text, mask).item() == pytest.approx((1.0 + 0.8) / 2)
    assert contrastive_loss(torch.eye(3), torch.tensor(50.0)).item() < 1e-6


def test_words_loss_counts_every_distinct_word_once() -> None:
    logits = torch.zeros(1, 8)
    assert words_loss(logits, torch.tensor([[0, 6, 6, 7, 1]]), ordinary=torch.arange(8) >= 5).item() == pytest.approx(
        8 * math.log(2)
    )
    sure = torch.full((1, 8), -30.0)
    sure[0, [6, 7]] = 30.0
    assert words_loss(sure, torch.tensor([[0, 6, 6, 7, 1]]), ordinary=torch.arange(8) >= 5).item() < 1e-6
