"""Numbers that the soft-label losses gave once, in float64: a change of any of them is a change of the method."""

import math

import pytest
import torch

from workbench.objectives.losses import likeliest, mlm_loss

LOGITS = torch.tensor([[1.0, -0.5, 0.25, 2.0], [0.0, 0.75, -1.5, 0.5]], dtype=torch.float64)
TEACHER = torch.tensor([[0.5, 1.5, -1.0, 0.0], [-0.25, 1.0, 2.0, 0.5]], dtype=torch.float64)
LABELS = torch.tensor([3, 1])


def by_hand(teacher: torch.Tensor, alpha: float, temperature: float) -> float:
    """The formula, word by word, from exponentials alone."""
    total = 0.0
    for z, t, y in zip(LOGITS.tolist(), teacher.tolist(), LABELS.tolist(), strict=True):
        e = [math.exp(v) for v in z]
        total += -(1 - alpha) * math.log(e[y] / sum(e))
        s = [math.exp(v / temperature) for v in z]
        q = [math.exp(v / temperature) for v in t]
        for a, b in zip(q, s, strict=True):
            if a > 0:
                share = a / sum(q)
                total += alpha * temperature**2 * share * math.log(share / (b / sum(s)))
    return total / 2


@pytest.mark.parametrize(
    ("teacher", "temperature", "golden"),
    [
        (TEACHER, 1.0, 0.884182476134),
        (TEACHER, 2.0, 0.893065465370),
        (torch.zeros_like(TEACHER), 1.0, 0.541450679113),
        (likeliest(TEACHER, 2), 1.0, 1.186381113979),
    ],
    ids=["teacher", "teacher at T=2", "smoothing", "top 2"],
)
def test_loss_and_gradient(teacher: torch.Tensor, temperature: float, golden: float) -> None:
    logits = LOGITS.clone().requires_grad_()
    loss = mlm_loss(logits, LABELS, teacher, 0.4, temperature)
    assert loss.item() == pytest.approx(by_hand(teacher, 0.4, temperature), abs=1e-12)
    assert loss.item() == pytest.approx(golden, abs=1e-11)
    loss.backward()
    # d/dz = (1 - alpha) (p - y) + alpha T (p_T - q_T), averaged over the masked words
    p, p_t, q_t = (x.softmax(-1) for x in (LOGITS, LOGITS / temperature, teacher / temperature))
    expected = (0.6 * (p - torch.eye(4, dtype=torch.float64)[LABELS]) + 0.4 * temperature * (p_t - q_t)) / 2
    assert logits.grad is not None
    assert torch.allclose(logits.grad, expected, atol=1e-12)
    assert torch.autograd.gradcheck(lambda x: mlm_loss(x, LABELS, teacher, 0.4, temperature), (logits,))
