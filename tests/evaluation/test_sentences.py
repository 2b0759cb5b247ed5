from pathlib import Path

import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import BertConfig, BertModel, PreTrainedTokenizerFast, T5Config, T5ForConditionalGeneration

from workbench.errors import UserError
from workbench.evaluation.perturbations import perturb
from workbench.evaluation.sentences import meaning_kept, rewriter

WORDS = ["<pad>", "</s>", "<unk>", "a", "red", "cup", "blue", "box", "above", "paraphrase:"]
CPU = torch.device("cpu")


def words(folder: Path) -> None:
    inner = Tokenizer(models.WordLevel({word: place for place, word in enumerate(WORDS)}, unk_token="<unk>"))
    inner.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    PreTrainedTokenizerFast(
        tokenizer_object=inner, pad_token="<pad>", eos_token="</s>", unk_token="<unk>"
    ).save_pretrained(folder)


def test_a_perturbation_that_changes_the_meaning_is_drawn_anew(tmp_path: Path) -> None:
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=len(WORDS), hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16
    )
    BertModel(config).save_pretrained(tmp_path)
    words(tmp_path)
    accept = meaning_kept(str(tmp_path), CPU)
    assert accept(["a red cup", "a red cup"], ["a red cup", "blue box above box"]) == [True, False]
    captions = ["a red cup above a blue box"] * 6
    free, kept = perturb(captions, "word_dropping", 5), perturb(captions, "word_dropping", 5, accept)
    assert all(accept(captions, kept))
    assert not all(accept(captions, free)) or free == kept
    # A judge that never agrees leaves the captions as they are.
    assert perturb(captions, "keyboard", 7, lambda before, after: [False] * len(after)) == captions


def test_a_rewriter_writes(tmp_path: Path) -> None:
    torch.manual_seed(0)
    config = T5Config(
        vocab_size=len(WORDS), d_model=16, d_kv=8, d_ff=16, num_layers=1, num_heads=2, decoder_start_token_id=0
    )
    T5ForConditionalGeneration(config).save_pretrained(tmp_path)
    words(tmp_path)
    sentences = rewriter(str(tmp_path), "paraphrase: ", CPU)(["a red cup", "a blue box"])
    assert len(sentences) == 2
    assert all(sentences)
    with pytest.raises(UserError, match="--rewriter"):
        rewriter(str(tmp_path / "nowhere"), "", CPU)
