"""Small language models of random weights of each family that is known, saved as transformers saves them."""

from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import AutoConfig, AutoModelForMaskedLM, PreTrainedTokenizerFast

WORDS = (
    "a an the red blue green small large striped dotted circle square star triangle cat dog tree left right of above"
    " below"
)
SIZES = {"hidden_size": 24, "num_hidden_layers": 3, "num_attention_heads": 2, "intermediate_size": 32}
FAMILIES: dict[str, dict[str, Any]] = {
    "bert": {},
    "roberta": {"type_vocab_size": 1},
    "xlm-roberta": {"type_vocab_size": 1},
    "distilbert": {"dim": 24, "n_layers": 3, "n_heads": 2, "hidden_dim": 32},
    "deberta-v2": {
        "relative_attention": True,
        "pos_att_type": ["p2c", "c2p"],
        "position_buckets": 8,
        "type_vocab_size": 0,
    },
    "modernbert": {"local_attention": 8, "global_attn_every_n_layers": 2},
}
OFFSET = {"roberta": 2, "xlm-roberta": 2}  # positions before the first token's
LONGEST = 32  # tokens
SPARE = {"deberta-v2": 7, "modernbert": 5}  # rows of the embeddings that no token has


def save_family(family: str, home: Path, **changes: Any) -> Path:
    """Tokeniser and model of `family`, at `home`."""
    inner, tokens = _tokeniser(family)
    PreTrainedTokenizerFast(tokenizer_object=inner, **tokens).save_pretrained(home)
    torch.manual_seed(0)
    named = SIZES | FAMILIES[family] if family != "distilbert" else FAMILIES[family]
    config = AutoConfig.for_model(
        family,
        vocab_size=inner.get_vocab_size() + SPARE.get(family, 0),
        max_position_embeddings=LONGEST + OFFSET.get(family, 0),
        pad_token_id=inner.token_to_id(tokens["pad_token"]),
        bos_token_id=inner.token_to_id(tokens["cls_token"]),
        eos_token_id=inner.token_to_id(tokens["sep_token"]),
        **named | changes,
    )
    language = AutoModelForMaskedLM.from_config(config)
    with torch.no_grad():
        for name, parameter in language.named_parameters():
            if name.endswith("bias"):
                parameter.normal_(std=0.5)
    language.save_pretrained(home)
    return home


def _tokeniser(family: str) -> tuple[Tokenizer, dict[str, str]]:
    if family in ("bert", "distilbert"):
        spare = [f"[unused{place}]" for place in range(4)]
        special = ["[PAD]", *spare, "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
        pieces = [*special, *(chr(n) for n in range(97, 123)), *(f"##{chr(n)}" for n in range(97, 123)), *WORDS.split()]
        inner = Tokenizer(models.WordPiece({p: k for k, p in enumerate(dict.fromkeys(pieces))}, unk_token="[UNK]"))
        inner.normalizer, inner.pre_tokenizer = normalizers.BertNormalizer(), pre_tokenizers.BertPreTokenizer()
        inner.decoder = decoders.WordPiece()
    elif family in ("roberta", "modernbert"):
        inner = Tokenizer(models.BPE())
        inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        inner.decoder = decoders.ByteLevel()
        first = ["<s>", "<pad>", "</s>", "<unk>"] if family == "roberta" else []
        alphabet = pre_tokenizers.ByteLevel.alphabet()
        trainer = trainers.BpeTrainer(
            vocab_size=340, special_tokens=first, initial_alphabet=alphabet, show_progress=False
        )
        inner.train_from_iterator([WORDS] * 5, trainer)
        # Both have <mask> behind their words, ModernBERT all special tokens.
        last = ["<mask>"] if first else ["[UNK]", "[CLS]", "[SEP]", "[PAD]", "[MASK]"]
        special = [*first, *last]
        inner.add_special_tokens(last)
    else:
        first = ["<s>", "<pad>", "</s>", "<unk>"] if family == "xlm-roberta" else ["[PAD]", "[CLS]", "[SEP]", "[UNK]"]
        letters = [("▁", -9.0), *((chr(n), -9.0) for n in range(97, 123))]
        words = [(f"▁{word}", -3.0) for word in WORDS.split()]
        inner = Tokenizer(models.Unigram([*((name, 0.0) for name in first), *letters, *words], unk_id=3))
        inner.pre_tokenizer, inner.decoder = pre_tokenizers.Metaspace(), decoders.Metaspace()
        last = ["<mask>"] if family == "xlm-roberta" else ["[MASK]"]
        inner.add_special_tokens([*first, *last])
        special = [*first, *last]
    named = {
        kind: next(s for s in special if s.strip("<>[]/").lower() == name) for kind, name in NAMES[special[-1]].items()
    }
    if named["sep_token"] == "<s>":
        named["sep_token"] = "</s>"
    inner.post_processor = processors.TemplateProcessing(
        single=f"{named['cls_token']} $A {named['sep_token']}",
        special_tokens=[(named[kind], inner.token_to_id(named[kind])) for kind in ("cls_token", "sep_token")],
    )
    return inner, named


NAMES = {
    "<mask>": {"cls_token": "s", "sep_token": "s", "pad_token": "pad", "unk_token": "unk", "mask_token": "mask"},
    "[MASK]": {"cls_token": "cls", "sep_token": "sep", "pad_token": "pad", "unk_token": "unk", "mask_token": "mask"},
}
