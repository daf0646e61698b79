"""A pipeline of each family, small enough for tests, with random weights and real tokenizers.

All draw pictures of 16 x 16, with latents of 4 x 8 x 8.
"""

import json
from collections.abc import Callable
from typing import Any

import torch
from diffusers import (
    DDIMScheduler,
    FlowMatchEulerDiscreteScheduler,
    FluxPipeline,
    FluxTransformer2DModel,
    SD3Transformer2DModel,
    StableDiffusion3Pipeline,
    StableDiffusionXLPipeline,
    UNet2DConditionModel,
    ZImagePipeline,
    ZImageTransformer2DModel,
)
from random_pipeline import CHANNELS, autoencoder, clip, make_pipeline
from tokenizers import Tokenizer
from tokenizers.models import Unigram
from tokenizers.pre_tokenizers import ByteLevel, Metaspace
from tokenizers.trainers import BpeTrainer, UnigramTrainer
from transformers import (
    CLIPTextModel,
    CLIPTokenizer,
    Qwen2Tokenizer,
    Qwen3Config,
    Qwen3Model,
    T5Config,
    T5EncoderModel,
    T5TokenizerFast,
)

from invcap.tiny_sd.tokenizer import train_tokenizer

WORDS = ["a room", "a red square", "a green circle", "a picture"]
TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message.role }}\n{{ message.content }}<|im_end|>\n"
    "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def stable_diffusion_xl() -> StableDiffusionXLPipeline:
    tokenizer, second = clip_tokenizer(), clip_tokenizer(pad_token="!")
    unet = UNet2DConditionModel(
        sample_size=8,
        block_out_channels=(8, 8),
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        layers_per_block=1,
        norm_num_groups=4,
        attention_head_dim=2,
        cross_attention_dim=8 + 12,
        addition_embed_type="text_time",
        addition_time_embed_dim=4,
        projection_class_embeddings_input_dim=12 + 6 * 4,
    )
    return StableDiffusionXLPipeline(
        vae=autoencoder(),
        text_encoder=clip(tokenizer, 8, CLIPTextModel),
        text_encoder_2=clip(second, 12),
        tokenizer=tokenizer,
        tokenizer_2=second,
        unet=unet,
        scheduler=DDIMScheduler(50, 0.017, 0.24, beta_schedule="scaled_linear", clip_sample=False),
        add_watermarker=False,
    )


def stable_diffusion_3(t5: bool = True) -> StableDiffusion3Pipeline:
    tokenizer, second, third = clip_tokenizer(), clip_tokenizer(pad_token="!"), t5_tokenizer()
    transformer = SD3Transformer2DModel(
        sample_size=8,
        patch_size=2,
        in_channels=CHANNELS,
        num_layers=2,
        attention_head_dim=8,
        num_attention_heads=2,
        joint_attention_dim=24,
        caption_projection_dim=16,
        pooled_projection_dim=8 + 12,
        out_channels=CHANNELS,
        pos_embed_max_size=16,
    )
    return StableDiffusion3Pipeline(
        vae=autoencoder(shift_factor=0.1),
        text_encoder=clip(tokenizer, 8),
        text_encoder_2=clip(second, 12),
        text_encoder_3=t5_encoder(third, 24) if t5 else None,
        tokenizer=tokenizer,
        tokenizer_2=second,
        tokenizer_3=third if t5 else None,
        transformer=transformer,
        scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0),
    )


def flux(guidance_embeds: bool = False) -> FluxPipeline:
    tokenizer, second = clip_tokenizer(), t5_tokenizer()
    transformer = FluxTransformer2DModel(
        in_channels=4 * CHANNELS,
        num_layers=1,
        num_single_layers=1,
        attention_head_dim=8,
        num_attention_heads=2,
        joint_attention_dim=24,
        pooled_projection_dim=8,
        axes_dims_rope=(2, 2, 4),
        guidance_embeds=guidance_embeds,
    )
    return FluxPipeline(
        vae=autoencoder(shift_factor=0.1),
        text_encoder=clip(tokenizer, 8, CLIPTextModel),
        text_encoder_2=t5_encoder(second, 24),
        tokenizer=tokenizer,
        tokenizer_2=second,
        transformer=transformer,
        scheduler=FlowMatchEulerDiscreteScheduler(),
    )


def z_image() -> ZImagePipeline:
    tokenizer = qwen_tokenizer()
    text_encoder = Qwen3Model(
        Qwen3Config(
            vocab_size=len(tokenizer),
            hidden_size=16,
            intermediate_size=16,
            num_hidden_layers=2,
            num_attention_heads=2,
            num_key_value_heads=1,
            head_dim=8,
            max_position_embeddings=1024,
        )
    )
    text_encoder.get_input_embeddings().weight.data.normal_()
    transformer = ZImageTransformer2DModel(
        in_channels=CHANNELS,
        dim=24,
        n_layers=2,
        n_refiner_layers=1,
        n_heads=2,
        n_kv_heads=2,
        cap_feat_dim=16,
        axes_dims=[4, 4, 4],
        axes_lens=[640, 32, 32],
    )
    return ZImagePipeline(
        vae=autoencoder(shift_factor=0.1),
        text_encoder=text_encoder,
        tokenizer=tokenizer,
        transformer=transformer,
        scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0),
    )


MAKERS: dict[str, Callable[[], Any]] = {
    "StableDiffusion": make_pipeline,
    "StableDiffusionXL": stable_diffusion_xl,
    "StableDiffusion3": stable_diffusion_3,
    "Flux": flux,
    "ZImage": z_image,
}


def make(family: str, **options: Any) -> Any:
    """The pipeline of a family, always the same; its weights are large enough to matter."""
    torch.manual_seed(0)
    pipeline = MAKERS[family](**options)
    denoiser = getattr(pipeline, "transformer", None) or pipeline.unet
    for name, weight in denoiser.named_parameters():
        if not weight.any() and name.endswith("weight"):
            torch.nn.init.normal_(weight, std=0.1)
    return pipeline


def clip_tokenizer(pad_token: str | None = None) -> CLIPTokenizer:
    tokenizer = train_tokenizer(WORDS, merges=30)
    if pad_token is not None:
        tokenizer.pad_token = pad_token
    return tokenizer


def t5_tokenizer() -> T5TokenizerFast:
    special = ["<pad>", "</s>", "<unk>"]
    learner = Tokenizer(Unigram())
    learner.pre_tokenizer = Metaspace(replacement="▁", prepend_scheme="always")
    trainer = UnigramTrainer(
        vocab_size=60, special_tokens=special, unk_token="<unk>", show_progress=False
    )
    learner.train_from_iterator([*WORDS, *"abcdefghijklmnopqrstuvwxyz"] * 3, trainer)
    pieces = [piece for piece in learner.get_vocab() if piece not in special]
    whole = sorted({f"▁{word}" for words in WORDS for word in words.split()})
    scores = {piece: -4.0 - len(piece) / 9 for piece in pieces} | dict.fromkeys(whole, -1.0)
    vocabulary = [(piece, 0.0) for piece in special] + sorted(scores.items())
    return T5TokenizerFast(vocab=vocabulary, extra_ids=0)


def t5_encoder(tokenizer: T5TokenizerFast, width: int) -> T5EncoderModel:
    return T5EncoderModel(
        T5Config(
            vocab_size=len(tokenizer),
            d_model=width,
            d_kv=8,
            d_ff=16,
            num_layers=1,
            num_heads=2,
            pad_token_id=tokenizer.pad_token_id,
            eos_token_id=tokenizer.eos_token_id,
        )
    )


def qwen_tokenizer() -> Qwen2Tokenizer:
    """Byte-level, with a merge for each word of the captions and the template of a chat."""
    alphabet = sorted(ByteLevel.alphabet())
    trainer = BpeTrainer(
        vocab_size=len(alphabet) + 60, initial_alphabet=alphabet, show_progress=False
    )
    learner = Qwen2Tokenizer().backend_tokenizer
    learner.train_from_iterator([f" {words}" for words in WORDS] * 3, trainer)
    learned = json.loads(learner.to_str())["model"]
    tokenizer = Qwen2Tokenizer(
        vocab=learned["vocab"],
        merges=[tuple(pair) for pair in learned["merges"]],
        additional_special_tokens=["<|im_start|>", "<|im_end|>"],
    )
    tokenizer.chat_template = TEMPLATE
    return tokenizer
