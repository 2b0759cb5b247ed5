import numpy as np
import torch

from workbench.config.schema import Fusion, Settings, Vision
from workbench.data.text import PAD
from workbench.model.encoders import VisionEncoder
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
