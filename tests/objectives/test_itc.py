import math

import pytest
import torch

from workbench.objectives.losses import queue_contrast
from workbench.objectives.teachers import Queue


def test_the_contrast_equals_a_hand_computed_case() -> None:
    # One pair and one past pair: the image's logits are 1 for its own caption and 0 for the past one; the caption's 1
    # and 1.
    image, text = torch.tensor([[1.0, 0.0]]), torch.tensor([[1.0, 0.0]])
    image_keys, text_keys = torch.tensor([[1.0, 0.0], [1.0, 0.0]]), torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    of_image, of_text = math.log(1 + math.exp(-1)), math.log(2)
    assert queue_contrast(image, text, image_keys, text_keys, None, 0.5).item() == pytest.approx(
        (of_image + of_text) / 2
    )
    # Soft targets that know nothing: half of the weight goes evenly to both keys.
    soft = (torch.zeros(1, 2), torch.zeros(1, 2))
    softened = 0.75 * of_image + 0.25 * (of_image + 1)
    assert queue_contrast(image, text, image_keys, text_keys, soft, 0.5).item() == pytest.approx(
        (softened + of_text) / 2
    )
    assert queue_contrast(image, text, image_keys, text_keys, soft, 0.0).item() == pytest.approx(
        (of_image + of_text) / 2
    )


def test_the_queue_keeps_the_latest_features() -> None:
    queue = Queue(5, 1)
    assert [len(part) for part in queue.past()] == [0, 0]
    for first in (0, 2, 4):
        queue.push(torch.tensor([[first], [first + 1]]).float(), -torch.tensor([[first], [first + 1]]).float())
    image, text = queue.past()
    assert sorted(image.flatten().tolist()) == [1, 2, 3, 4, 5]
    assert torch.equal(text, -image)
    queue.push(torch.arange(10.0, 20.0)[:, None], torch.zeros(10, 1))
    assert sorted(queue.past()[0].flatten().tolist()) == [15, 16, 17, 18, 19]


def test_a_queue_of_no_size_stays_empty() -> None:
    queue = Queue(0, 3)
    queue.push(torch.ones(2, 3), torch.ones(2, 3))
    assert len(queue.past()[0]) == 0
