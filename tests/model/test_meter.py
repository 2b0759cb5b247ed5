"""The fusion against METER's formulas, built from transformers' own BERT layers; and METER's checkpoints by their
names."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers import BertConfig, RobertaConfig, RobertaModel
from transformers.models.bert.modeling_bert import BertLayer, BertPredictionHeadTransform

from workbench.config.schema import Model, Settings
from workbench.config.settings import apply
from workbench.data.text import MASK, Vocabulary
from workbench.errors import UserError
from workbench.model.meter import from_meter, read_meter, sized_like
from workbench.model.vilta import ViLTA

WIDTH, VOCABULARY, LENGTH, SIDE = 24, 60, 10, 32

MODEL = apply(
    Settings(),
    {
        "model.width": WIDTH,
        "model.vision.name": "vit_tiny_patch16_224",
        "model.vision.options": {"embed_dim": 12, "depth": 3, "num_heads": 2, "pre_norm": True},
        "model.vision.tokens": "final",
        "model.vision.stage": 1,
        "model.text.heads": 2,
        "model.fusion.heads": 3,
        "model.fusion.norm_epsilon": 1e-12,
        "model.fusion.initialisation": "bert",
        "model.image_norm": False,
        "model.image_positions": False,
        "model.image_pool": "first",
    },
).model


class Meter(nn.Module):
    """What METER computes after its vision encoder, in METER's names: `infer` and the two pre-training heads."""

    def __init__(self) -> None:
        super().__init__()
        sizes = {"hidden_size": WIDTH, "intermediate_size": 4 * WIDTH, "vocab_size": VOCABULARY}
        cross = BertConfig(**sizes, num_attention_heads=3, is_decoder=True, add_cross_attention=True)
        cross._attn_implementation = "eager"
        text = RobertaConfig(
            **sizes, num_hidden_layers=2, num_attention_heads=2, max_position_embeddings=LENGTH + 2, type_vocab_size=1,
            pad_token_id=1, layer_norm_eps=1e-12,
        )  # fmt: skip
        self.text_transformer = RobertaModel(text, add_pooling_layer=True)
        self.cross_modal_text_transform = nn.Linear(WIDTH, WIDTH)
        self.cross_modal_image_transform = nn.Linear(12, WIDTH)
        self.token_type_embeddings = nn.Embedding(2, WIDTH)
        self.cross_modal_text_layers = nn.ModuleList(BertLayer(cross) for _ in range(2))
        self.cross_modal_image_layers = nn.ModuleList(BertLayer(cross) for _ in range(2))
        self.cross_modal_text_pooler = nn.ModuleDict({"dense": nn.Linear(WIDTH, WIDTH)})
        self.cross_modal_image_pooler = nn.ModuleDict({"dense": nn.Linear(WIDTH, WIDTH)})
        self.itm_score = nn.ModuleDict({"fc": nn.Linear(2 * WIDTH, 2)})
        self.mlm_score: Any = nn.Module()
        self.mlm_score.transform = BertPredictionHeadTransform(cross)
        self.mlm_score.decoder = nn.Linear(WIDTH, VOCABULARY, bias=False)
        self.mlm_score.bias = nn.Parameter(torch.randn(VOCABULARY))

    def forward(self, features: Tensor, token_ids: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        mask = (token_ids != 1).long()
        x = self.cross_modal_text_transform(self.text_transformer(token_ids, attention_mask=mask).last_hidden_state)
        y = self.cross_modal_image_transform(features)
        x, y = x + self.token_type_embeddings.weight[0], y + self.token_type_embeddings.weight[1]
        blocked = (1.0 - mask[:, None, None, :]) * -1e9
        for text_layer, image_layer in zip(self.cross_modal_text_layers, self.cross_modal_image_layers, strict=True):
            x, y = (
                first(text_layer(x, blocked, y, None)),
                first(image_layer(y, None, x, blocked)),
            )
        pooled = torch.cat(
            [
                self.cross_modal_text_pooler["dense"](x[:, 0]).tanh(),
                self.cross_modal_image_pooler["dense"](y[:, 0]).tanh(),
            ],
            dim=-1,
        )
        words = self.mlm_score.decoder(self.mlm_score.transform(x)) + self.mlm_score.bias
        return x, pooled, self.itm_score["fc"](pooled), words


def first(output: Tensor | tuple[Tensor, ...]) -> Tensor:
    return output[0] if isinstance(output, tuple) else output


def clip_names(vision: nn.Module) -> dict[str, Tensor]:
    """timm's ViT in OpenAI's names, as METER's checkpoints hold it."""
    swaps = (
        ("patch_embed.proj", "conv1"), ("pos_embed", "positional_embedding"), ("blocks.", "transformer.resblocks."),
        ("norm_pre", "ln_pre"), (".norm1", ".ln_1"), (".norm2", ".ln_2"), ("qkv.", "in_proj_"),
        (".proj.", ".out_proj."), ("mlp.fc1", "mlp.c_fc"), ("mlp.fc2", "mlp.c_proj"), ("cls_token", "class_embedding"),
    )  # fmt: skip
    named = {}
    for name, tensor in vision.state_dict().items():
        if name.startswith("norm."):
            name = name.replace("norm.", "ln_post.")
        for ours, theirs in swaps:
            if not (ours == ".proj." and name.startswith("conv1")):
                name = name.replace(ours, theirs)
        shrunk = tensor[0, 0] if name == "class_embedding" else tensor[0] if name == "positional_embedding" else tensor
        named[f"vit_model.visual.{name}"] = shrunk
    return named


@pytest.fixture(scope="module")
def meter() -> Meter:
    torch.manual_seed(0)
    model = Meter().eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return model


def new(config: Model = MODEL) -> ViLTA:
    torch.manual_seed(1)
    model = ViLTA(config, SIDE, Vocabulary.plain(VOCABULARY), LENGTH).eval()
    model.language.config.layer_norm_eps = 1e-12
    for module in model.language.roberta.modules():
        if isinstance(module, nn.LayerNorm):
            module.eps = 1e-12
    return model


def checkpoint_of(meter: Meter, other: ViLTA) -> dict[str, Tensor]:
    return meter.state_dict() | clip_names(other.vision.backbone)


def test_equal_weights_give_meters_features(meter: Meter) -> None:
    torch.manual_seed(2)
    source, model = new(), new()
    with torch.no_grad():
        for parameter in source.vision.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    weights = from_meter(checkpoint_of(meter, source), model)
    kept = model.load_state_dict(weights, strict=False)
    assert kept.unexpected_keys == []
    assert all(name.startswith(("language.lm_head", "row_", "column_")) for name in kept.missing_keys)

    images = torch.randint(0, 256, (3, 3, SIDE, SIDE), dtype=torch.uint8)
    token_ids = torch.tensor([[0, MASK, 30, 7, 2, 1, 1], [0, 9, 59, 51, 40, 8, 2], [0, 11, 2, 1, 1, 1, 1]])
    with torch.no_grad():
        features = model.image_features(images)
        assert torch.equal(features, source.image_features(images))
        expected_text, expected_pooled, expected_match, expected_words = meter(features, token_ids)
        text, pooled = model.fuse(model.encode_text(token_ids), model.adapt_image(features), token_ids)
        real = token_ids != 1
        for ours, theirs in (
            (text[real], expected_text[real]),
            (pooled, expected_pooled),
            (model.itm_logits(pooled), expected_match),
            (model.mlm_logits(text)[real], expected_words[real]),
        ):
            torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        (lambda c: c.pop("itm_score.fc.weight"), "lacks `itm_head.weight`"),
        (
            lambda c: c.pop("cross_modal_image_layers.1.crossattention.self.key.bias"),
            "lacks `fusion.image_layers.1.cross",
        ),
        (lambda c: c.update({"itm_score.fc.bias": torch.zeros(3)}), "another shape `itm_head.bias`"),
        (lambda c: c.update({"something.weight": torch.zeros(3)}), "but the model lacks, `something.weight`"),
    ],
)
def test_a_checkpoint_that_does_not_fit_is_refused(
    meter: Meter, change: Callable[[dict[str, Tensor]], object], complaint: str
) -> None:
    model = new()
    checkpoint = checkpoint_of(meter, model)
    change(checkpoint)
    with pytest.raises(UserError, match=complaint):
        from_meter(checkpoint, model)


def test_fine_tuned_heads_and_metrics_are_left_out(meter: Meter) -> None:
    model = new()
    checkpoint = checkpoint_of(meter, model) | {
        "vqa_classifier.0.weight": torch.zeros(2),
        "train_mlm_accuracy.total": torch.zeros(1),
        "vit_model.token_embedding.weight": torch.zeros(2),
    }
    assert from_meter(checkpoint, model).keys() == from_meter(checkpoint_of(meter, model), model).keys()


def test_a_final_norm_and_class_token_come_first(meter: Meter) -> None:
    model = new()
    backbone = model.vision.backbone
    assert len(backbone.blocks) == 2
    images = torch.randint(0, 256, (2, 3, SIDE, SIDE), dtype=torch.uint8)
    with torch.no_grad():
        features = model.image_features(images)
        x = backbone.patch_embed((images / 255 - model.vision.mean) / model.vision.std)
        x = backbone.norm_pre(torch.cat([backbone.cls_token.expand(2, -1, -1), x], dim=1) + backbone.pos_embed)
        expected = backbone.norm(backbone.blocks[1](backbone.blocks[0](x)))
    assert features.shape == (2, 5, 12)
    torch.testing.assert_close(features, expected)


def test_a_checkpoint_file_becomes_a_start(meter: Meter, tmp_path: Path) -> None:
    settings = Settings().model_copy(update={"model": MODEL})
    source = new()
    torch.save({"state_dict": checkpoint_of(meter, source), "epoch": 3}, tmp_path / "meter.ckpt")
    given = read_meter(tmp_path / "meter.ckpt")
    model = sized_like(given, settings)
    weights = from_meter(given, model)
    assert weights.keys() == {
        name for name in new().state_dict() if not name.startswith(("language.lm_head", "row_", "column_"))
    }
    assert torch.equal(weights["vision.backbone.cls_token"], source.vision.backbone.cls_token)


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        (b"", "cannot be read"),
        (b"nothing", "cannot be read"),
        ({"state_dict": {"a": torch.zeros(1)}}, "not a METER checkpoint"),
    ],
)
def test_what_is_no_meter_checkpoint_is_one_sentence(
    content: bytes | dict[str, Any], complaint: str, tmp_path: Path
) -> None:
    path = tmp_path / "meter.ckpt"
    if isinstance(content, bytes):
        path.write_bytes(content)
    else:
        torch.save(content, path)
    with pytest.raises(UserError, match=complaint):
        read_meter(path)


def test_a_swin_checkpoint_is_refused(meter: Meter) -> None:
    with pytest.raises(UserError, match="CLIP vision encoder"):
        sized_like(meter.state_dict(), Settings())
