import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from workbench.data.loader import Order
from workbench.data.text import END, PAD, START, UNKNOWN, load_tokeniser, save_tokeniser, train_tokeniser


def test_tokens_come_back_as_words_and_long_captions_are_cut(tmp_path: Path) -> None:
    tokeniser = train_tokeniser(["a red anchor", "a small plane"] * 5, 300, 8)
    ids = tokeniser.encode(["A red plane", "a red anchor a red anchor a red anchor"])
    assert ids.shape == (2, 8)
    assert ids[0].tolist()[:1] == [START]
    assert (ids[0] == PAD).sum() > 0
    assert ids[1, -1] == END
    assert tokeniser.decode(ids[0][ids[0] > UNKNOWN]) == "a red plane"
    save_tokeniser(tokeniser, tmp_path / "t.json")
    assert (load_tokeniser(tmp_path / "t.json", 8).encode(["a red plane"]) == ids[:1]).all()


def test_synonyms_start_with_the_token_itself() -> None:
    tokeniser = train_tokeniser(["plane aircraft red anchor"] * 9, 300, 8)
    table = tokeniser.synonyms([("plane", "aircraft", "unheard"), ("red",)])
    plane, aircraft, red = (tokeniser.word_id(word) for word in ("plane", "aircraft", "red"))
    assert set(table[plane]) == {plane, aircraft}
    assert (table[:, 0] == np.arange(tokeniser.size)).all()
    assert set(table[red]) == {red}


def test_an_epoch_shows_every_pair_once_and_seeds_differ() -> None:
    order = Order(((40, 1.0),), 8, seed=1)
    steps = [order.at(step)[1] for step in range(10)]
    for epoch in (steps[:5], steps[5:]):
        assert sorted(np.concatenate(epoch)) == list(range(40))
    assert (steps[0] != steps[5]).any()
    assert [order.at(step)[0] for step in range(10)] == [0] * 5 + [1] * 5
    assert (steps[0] == order.at(0)[1]).all()
    assert (steps[0] != Order(((40, 1.0),), 8, seed=2).at(0)[1]).any()
    assert len(Order(((5, 1.0),), 8, seed=0).at(3)[1]) == 5


@pytest.mark.slow
def test_the_vocabulary_is_the_same_in_every_process() -> None:
    code = (
        "from workbench.data.text import train_tokeniser;"
        "t = train_tokeniser([f'word{i} other{i % 7} thing' for i in range(300)], 150, 8);"
        "print(t.inner.to_str())"
    )
    printed = {subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout for _ in range(3)}
    assert len(printed) == 1
    assert "word0" in printed.pop()
