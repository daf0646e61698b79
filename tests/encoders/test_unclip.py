import json

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from diffusers import (
    DDPMScheduler,
    StableUnCLIPImg2ImgPipeline,
    UNet2DConditionModel,
)
from diffusers.pipelines.stable_diffusion.stable_unclip_image_normalizer import (
    StableUnCLIPImageNormalizer,
)
from random_pipeline import WIDTH, make_pipeline
from tiny_backbones import CROPPED, VISION
from transformers import CLIPImageProcessor, CLIPVisionConfig, CLIPVisionModelWithProjection

from invcap.data.example import Examples
from invcap.data.settings import DataSettings
from invcap.encoders.load import load_image_encoder
from invcap.encoders.make import EncoderSettings, make_image_encoder
from invcap.encoders.unclip import UnclipImages, load_unclip

EMBEDDING = 12
PIXELS = np.random.default_rng(0).integers(0, 256, (3, 40, 40, 3), np.uint8)


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> str:
    """A Stable unCLIP of random weights that draws 16 x 16."""
    base = make_pipeline()
    torch.manual_seed(0)
    vision = CLIPVisionConfig(**VISION, projection_dim=EMBEDDING)
    unet = UNet2DConditionModel(
        sample_size=8,
        block_out_channels=(8,),
        down_block_types=("DownBlock2D",),
        up_block_types=("CrossAttnUpBlock2D",),
        mid_block_type=None,
        layers_per_block=1,
        norm_num_groups=4,
        attention_head_dim=2,
        cross_attention_dim=WIDTH,
        class_embed_type="projection",
        projection_class_embeddings_input_dim=2 * EMBEDDING,
    )
    pipeline = StableUnCLIPImg2ImgPipeline(
        feature_extractor=CLIPImageProcessor(**CROPPED),
        image_encoder=CLIPVisionModelWithProjection(vision),
        image_normalizer=StableUnCLIPImageNormalizer(embedding_dim=EMBEDDING),
        image_noising_scheduler=DDPMScheduler(beta_schedule="squaredcos_cap_v2"),
        tokenizer=base.tokenizer,
        text_encoder=base.text_encoder,
        unet=unet,
        scheduler=base.scheduler,
        vae=base.vae,
    )
    path = tmp_path_factory.mktemp("unclip")
    pipeline.save_pretrained(path)
    return str(path)


@pytest.fixture(scope="module")
def encoder(folder) -> UnclipImages:
    return load_unclip(folder, (32, 32))


def test_latents_are_clip_embeddings_as_the_pipeline_makes_them(encoder):
    pipeline = encoder.pipeline
    pixels = PIXELS[:, :32, :32].copy()
    inputs = pipeline.feature_extractor(
        list(pixels), do_resize=False, do_center_crop=False, return_tensors="pt"
    )
    with torch.no_grad():
        expected = pipeline.image_encoder(inputs["pixel_values"]).image_embeds
    assert encoder.features == EMBEDDING
    torch.testing.assert_close(encoder.encode(pixels), expected, rtol=1e-4, atol=1e-5)


def test_a_drawing_depends_on_its_latent_and_not_on_its_neighbours(encoder):
    latents = encoder.encode(PIXELS)
    latents = torch.cat([latents, 5 * latents])
    drawn = encoder.decode(latents)
    assert drawn.shape == (6, 16, 16, 3) and drawn.dtype == np.uint8
    alone = encoder.decode(latents[4:5])[0]
    assert np.abs(drawn[4].astype(int) - alone).max() <= 1
    assert np.abs(drawn[0].astype(int) - drawn[3]).max() > 1
    assert encoder.encode(drawn).shape == latents.shape


def test_only_the_name_is_saved_and_other_weights_are_refused(encoder, tmp_path):
    encoder.save(tmp_path / "a")
    assert [path.name for path in (tmp_path / "a").iterdir()] == ["encoder.json"]
    loaded = load_image_encoder(tmp_path / "a")
    assert loaded.size == (32, 32)
    assert torch.equal(loaded.encode(PIXELS), encoder.encode(PIXELS))
    facts = json.loads((tmp_path / "a" / "encoder.json").read_text())
    (tmp_path / "a" / "encoder.json").write_text(json.dumps({**facts, "fingerprint": "other"}))
    with pytest.raises(ValueError, match="has other weights than when it was saved"):
        load_image_encoder(tmp_path / "a")


def test_it_is_made_by_its_name(encoder, folder, tmp_path):
    made = make_image_encoder(
        Examples(),
        DataSettings("pictures", size=(32, 32)),
        384,
        EncoderSettings(f"unclip:{folder}"),
        tmp_path,
        Accelerator(cpu=True),
    )
    assert made.fingerprint == encoder.fingerprint


def test_a_model_that_is_no_unclip_is_refused_by_name(tmp_path):
    with pytest.raises(ValueError, match="image_encoder unclip needs a folder or hub name"):
        load_unclip("", (32, 32))
    with pytest.raises(ValueError, match="neither a folder nor a Stable unCLIP"):
        load_unclip(str(tmp_path / "none"), (32, 32))
    make_pipeline().save_pretrained(tmp_path / "sd")
    with pytest.raises(ValueError, match="neither a folder nor a Stable unCLIP"):
        load_unclip(str(tmp_path / "sd"), (32, 32))
