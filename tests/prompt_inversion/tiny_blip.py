"""A BLIP small enough for tests, with random weights."""

from pathlib import Path

import torch
from transformers import (
    BertTokenizer,
    BlipConfig,
    BlipForConditionalGeneration,
    BlipImageProcessor,
    BlipProcessor,
)

WORDS = ("a", "red", "green", "square", "circle", "room", "on", "the", "left", ",")
SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "[DEC]", "[ENC]")


def save_blip(folder: Path) -> Path:
    """Writes a BLIP that says some of ten words, with its processor, to a folder."""
    folder.mkdir(parents=True)
    vocabulary = folder / "vocab.txt"
    vocabulary.write_text("\n".join((*SPECIAL, *WORDS)))
    tokenizer = BertTokenizer(str(vocabulary), additional_special_tokens=["[DEC]", "[ENC]"])
    size = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    marks = {"bos_token_id": 5, "eos_token_id": 3, "sep_token_id": 3, "pad_token_id": 0}
    torch.manual_seed(0)
    config = BlipConfig(
        text_config={
            "vocab_size": len(tokenizer),
            "encoder_hidden_size": 16,
            "intermediate_size": 16,
            "projection_dim": 16,
            **size,
            **marks,
        },
        vision_config={"image_size": 16, "patch_size": 8, "intermediate_size": 16, **size},
        projection_dim=16,
    )
    model = BlipForConditionalGeneration(config)
    model.text_decoder.get_output_embeddings().weight.data.normal_()
    model.save_pretrained(folder)
    images = BlipImageProcessor(size={"height": 16, "width": 16})
    BlipProcessor(images, tokenizer).save_pretrained(folder)
    return folder
