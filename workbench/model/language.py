"""The language encoder: a masked language model of transformers with its own head; new ones are RoBERTa models."""

import os
from collections.abc import Callable, Iterator
from typing import Any, Final

from torch import Tensor, nn
from transformers import AutoConfig, AutoModelForMaskedLM, PreTrainedModel, RobertaConfig, RobertaForMaskedLM

from workbench.config.schema import Text
from workbench.data.text import END, PAD, START, padding_mask, unread
from workbench.errors import UserError

# `model_type` -> the function from states [..., D] to logits [..., V].
HEADS: Final[dict[str, Callable[[Any, Tensor], Tensor]]] = {
    **dict.fromkeys(("roberta", "xlm-roberta"), lambda language, states: language.lm_head(states)),
    **dict.fromkeys(("bert", "deberta-v2"), lambda language, states: language.cls(states)),
    "distilbert": lambda language, states: language.vocab_projector(
        language.vocab_layer_norm(language.activation(language.vocab_transform(states)))
    ),
    "modernbert": lambda language, states: language.decoder(language.head(states)),
}
# `model_type` -> the parts of its head: linear layer, norm, and projection to the vocabulary. The activation is always
# GELU.
PARTS: Final[dict[str, tuple[str, str, str]]] = {
    **dict.fromkeys(("roberta", "xlm-roberta"), ("lm_head.dense", "lm_head.layer_norm", "lm_head.decoder")),
    **dict.fromkeys(
        ("bert", "deberta-v2"),
        (
            "cls.predictions.transform.dense",
            "cls.predictions.transform.LayerNorm",
            "cls.predictions.decoder",
        ),
    ),
    "distilbert": ("vocab_transform", "vocab_layer_norm", "vocab_projector"),
    "modernbert": ("head.dense", "head.norm", "decoder"),
}
OF_HEADS: Final = tuple(sorted({f"{name.partition('.')[0]}." for parts in PARTS.values() for name in parts}))
LAYERS: Final = ("encoder.layer", "transformer.layer", "layers")
DROPOUTS: Final = (
    *("hidden_dropout_prob", "attention_probs_dropout_prob"),
    *("dropout", "attention_dropout", "embedding_dropout", "mlp_dropout"),
)
ROBERTA: Final = ("roberta", "xlm-roberta")  # their position ids begin after the padding's id
SIMPLE: Final = (*ROBERTA, "bert", "distilbert")  # all layers attend to the whole caption


def text_states(language: PreTrainedModel, token_ids: Tensor) -> Tensor:
    """Hidden states [B, L, D] of a language encoder for padded captions int64 [B, L]."""
    mask = padding_mask(token_ids, language.config.pad_token_id)
    if mask is not None and language.config.model_type in SIMPLE and language.config._attn_implementation == "sdpa":
        # The final form of the mask. For any other form transformers inspects the values, and the host waits for the
        # GPU.
        mask = mask[:, None, None, :].expand(-1, -1, token_ids.shape[1], -1)
    states: Tensor = language.base_model(token_ids, attention_mask=mask).last_hidden_state
    return states


def word_logits(language: PreTrainedModel, states: Tensor) -> Tensor:
    """The language encoder's own head: states [..., D] -> logits [..., V]."""
    return HEADS[language.config.model_type](language, states)


def head_parts(language: PreTrainedModel) -> tuple[nn.Linear, nn.LayerNorm, nn.Linear]:
    """The linear layer, the norm and the projection to the vocabulary of the head."""
    dense, norm, decoder = (language.get_submodule(name) for name in PARTS[language.config.model_type])
    assert isinstance(dense, nn.Linear)
    assert isinstance(norm, nn.LayerNorm)
    assert isinstance(decoder, nn.Linear)
    return dense, norm, decoder


def encoder_layers(language: PreTrainedModel) -> Iterator[nn.Module]:
    """Yields the repeated layers, the first one first."""
    modules = dict(language.base_model.named_modules())
    yield from next(modules[name] for name in LAYERS if name in modules).children()


def text_encoder(config: Text, width: int, vocabulary: int, max_length: int, pad: int = PAD) -> PreTrainedModel:
    """Returns a language encoder with its language-model head: a pre-trained one, which has its own width, or a new
    RoBERTa model. `vocabulary`: the number of tokens of the tokeniser; `pad`: the id of padding.

    Raises UserError if weights are missing or do not fit.
    """
    if config.weights:
        return _fitted(read_text(config), config, vocabulary, max_length, pad)
    return RobertaForMaskedLM(
        RobertaConfig(
            vocab_size=vocabulary,
            hidden_size=width,
            num_hidden_layers=config.layers,
            num_attention_heads=config.heads,
            intermediate_size=4 * width,
            hidden_dropout_prob=config.dropout,
            attention_probs_dropout_prob=config.dropout,
            max_position_embeddings=max_length + pad + 1,
            type_vocab_size=1,
            bos_token_id=START,
            pad_token_id=pad,
            eos_token_id=END,
            tie_word_embeddings=True,
        )
    )


def read_text(config: Text) -> PreTrainedModel:
    """The first `layers` layers of a pre-trained encoder, with its head. Raises UserError if its type is unknown or
    weights are missing."""
    where = str(config.weights)
    option = "`model.text.weights`"
    try:
        form = AutoConfig.from_pretrained(os.path.expanduser(where))
        if form.model_type not in HEADS:
            raise UserError(
                f"{option}: `{where}` is of the type `{form.model_type}`; known types are {', '.join(HEADS)}."
            )
        if form.num_hidden_layers < config.layers:
            raise UserError(
                f"{option}: `{where}` has {form.num_hidden_layers} layers, and `model.text.layers` asks for"
                f" {config.layers}."
            )
        form.num_hidden_layers = config.layers
        for name in DROPOUTS:
            if hasattr(form, name):
                setattr(form, name, config.dropout)
        language, report = AutoModelForMaskedLM.from_pretrained(
            os.path.expanduser(where), config=form, output_loading_info=True
        )
    except (OSError, ValueError, RuntimeError, KeyError) as error:
        raise UserError(f"{option}: {unread('masked language model', where, error)}") from error
    if missing := sorted(report["missing_keys"]):
        raise UserError(
            f"{option}: `{where}` lacks {len(missing)} tensors, `{missing[0]}` among them; use a masked language model"
            " with its language-model head."
        )
    encoder: PreTrainedModel = language
    return encoder


def _fitted(language: PreTrainedModel, config: Text, vocabulary: int, max_length: int, pad: int) -> PreTrainedModel:
    where, form = config.weights, language.config
    if form.vocab_size < vocabulary:
        raise UserError(
            f"`model.text.weights`: `{where}` knows {form.vocab_size} tokens and the tokeniser has {vocabulary}; set "
            "`data.tokeniser` to its own."
        )
    if form.vocab_size > vocabulary:  # spare rows without a token
        language.resize_token_embeddings(vocabulary)
    if form.pad_token_id != pad:
        raise UserError(
            f"`model.text.weights`: `{where}` pads with token {form.pad_token_id} and the tokeniser with {pad}; set "
            "`data.tokeniser` to its own."
        )
    most = form.max_position_embeddings - (pad + 1 if form.model_type in ROBERTA else 0)
    if max_length > most:
        raise UserError(
            f"`data.max_length` is {max_length}, and `{where}` reads at most {most} tokens; set it to at most that."
        )
    return language
