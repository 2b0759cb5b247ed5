from typing import Any

import numpy as np
import pytest
import timm
import torch

from workbench.config.schema import Fusion, Settings, Vision
from workbench.config.settings import apply
from workbench.data.text import PAD
from workbench.errors import UserError
from workbench.model.encoders import VisionEncoder, check_encoders
from workbench.model.fusion import CoAttention
from workbench.training.prepare import Prepared
from workbench.training.warm_start import new_model


def test_each_layer_pair_reads_the_previous_states_of_both_streams() -> None:
    torch.manual_seed(0)
    fusion = CoAttention(8, Fusion(layers=2, heads=2)).eval()
    text, image = torch.randn(1, 3, 8), torch.randn(1, 4, 8)
    fused_text, fused_image = fusion(text, image, None)
    t1 = fusion.text_layers[0](text, image, None, None)
    i1 = fusion.image_layers[0](image, text, None, None)
    assert torch.equal(fused_text, fusion.text_layers[1](t1, i1, None, None))
    assert torch.equal(fused_image, fusion.image_layers[1](i1, t1, None, None))


def test_padding_changes_nothing(settings: Settings, prepared: Prepared) -> None:
    model = new_model(settings, prepared.corpus, 0).eval()
    features = torch.from_numpy(np.array(prepared.features["val"][:4])).float()
    ids = torch.from_numpy(prepared.corpus.val.token_ids[:4])
    wider = torch.cat([ids, torch.full((4, 3), PAD)], dim=1)[:, : settings.data.max_length]
    scores = []
    for token_ids in (ids, wider):
        _, pooled = model.fuse(model.encode_text(token_ids), model.adapt_image(features), token_ids)
        scores.append(model.itm_logits(pooled))
    assert wider.shape[1] > ids.shape[1]
    torch.testing.assert_close(scores[0], scores[1], rtol=0, atol=1e-5)


def test_the_seed_alone_decides_the_initialisation(settings: Settings, prepared: Prepared) -> None:
    torch.manual_seed(1)
    one = new_model(settings, prepared.corpus, 5).state_dict()
    torch.manual_seed(2)
    two, three = (new_model(settings, prepared.corpus, seed).state_dict() for seed in (5, 6))
    assert all(torch.equal(one[name], two[name]) for name in one)
    assert any(not torch.equal(one[name], three[name]) for name in one)


def test_a_swin_gives_its_tokens_in_one_row() -> None:
    small = {"embed_dim": 8, "depths": (1, 1), "num_heads": (1, 2), "window_size": 4}
    config = Vision(name="swin_tiny_patch4_window7_224", tokens="final", stage=1, options=small)
    encoder = VisionEncoder(config, 64).eval()
    with torch.no_grad():
        features = encoder(torch.zeros(2, 3, 64, 64, dtype=torch.uint8))
    assert features.shape == (2, encoder.tokens, encoder.channels) == (2, 64, 16)


# timm's tag -> the sizes that make it small, the side of its image, its tokens that belong to no place, its patches,
# mean and spread.
CLIP = ([0.4815, 0.4578, 0.4082], [0.2686, 0.2613, 0.2758])
IMAGENET = ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225])
HALF = ([0.5] * 3, [0.5] * 3)
SMALL = {"embed_dim": 16, "depth": 2, "num_heads": 2}
WINDOWS = {"embed_dim": 8, "depths": (1, 1), "num_heads": (1, 2), "window_size": 4}
TAGS = [
    ("vit_base_patch16_clip_quickgelu_224.openai", SMALL, 64, 1, 16, CLIP),
    ("vit_base_patch16_clip_224.laion2b", SMALL, 64, 1, 16, CLIP),
    ("vit_base_patch16_siglip_224.webli", SMALL, 64, 0, 16, HALF),
    ("vit_base_patch16_siglip_224.v2_webli", SMALL, 64, 0, 16, HALF),
    ("vit_base_patch14_dinov2.lvd142m", SMALL, 56, 1, 16, IMAGENET),
    ("vit_base_patch14_reg4_dinov2.lvd142m", SMALL, 56, 5, 16, IMAGENET),
    ("vit_base_patch16_dinov3.lvd1689m", SMALL, 64, 5, 16, IMAGENET),
    ("swin_base_patch4_window7_224.ms_in22k", WINDOWS, 64, 0, 64, IMAGENET),
]


@pytest.mark.parametrize(("name", "options", "side", "prefix", "patches", "scale"), TAGS)
def test_a_familys_tokens_and_colours_are_as_timm_has_them(
    name: str, options: dict[str, Any], side: int, prefix: int, patches: int, scale: tuple[list[float], list[float]]
) -> None:
    torch.manual_seed(0)
    encoder = VisionEncoder(Vision(name=name, tokens="final", stage=1, options=options), side).eval()
    assert [encoder.mean.flatten().tolist(), encoder.std.flatten().tolist()] == [
        pytest.approx(s, abs=1e-4) for s in scale
    ]
    images = torch.randint(0, 256, (2, 3, side, side), dtype=torch.uint8)
    with torch.no_grad():
        features = encoder(images)
        expected = timm.create_model(name, num_classes=0, img_size=side, **options).eval()
        expected.load_state_dict(encoder.backbone.state_dict(), strict=False)
        # What timm's own transform makes of an image that has its size already.
        scaled = (images / 255 - torch.tensor(expected.pretrained_cfg["mean"])[:, None, None]) / torch.tensor(
            expected.pretrained_cfg["std"]
        )[:, None, None]
        theirs = expected.forward_features(scaled)
    assert encoder.prefix_tokens == prefix
    assert features.shape == (2, encoder.tokens, encoder.channels) == (2, prefix + patches, theirs.shape[-1])
    torch.testing.assert_close(features, theirs.reshape(features.shape), rtol=0, atol=1e-5)
    assert not [n for n, _ in encoder.backbone.named_parameters() if "attn_pool" in n or n.startswith("head")]


def test_a_first_token_is_refused_where_it_is_no_class_token(settings: Settings) -> None:
    changes = {"model.image_pool": "first", "model.image_positions": False, "model.vision.tokens": "final"}
    changes |= {
        "model.vision.name": "vit_base_patch16_siglip_224",
        "model.vision.stage": 1,
        "model.vision.options": SMALL,
    }
    with pytest.raises(UserError, match=r"set `model\.image_pool: mean`"):
        check_encoders(apply(settings, changes))
    check_encoders(apply(settings, changes | {"model.image_pool": "mean"}))
    check_encoders(apply(settings, changes | {"model.vision.name": "vit_base_patch16_clip_224"}))
