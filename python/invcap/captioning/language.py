"""Causal language models for the writer: a small one of our own, or a pretrained one."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

import torch

SMALL = "small"
END = "<|endoftext|>"
HEAD_WIDTH = 32


def small_language(
    captions: Iterable[str], vocabulary: int, layers: int, width: int, positions: int
) -> tuple[Any, Any]:
    """A GPT-2 of random weights and a byte-level BPE tokenizer learned from captions.

    Args:
        vocabulary: most tokens; fewer if every word of the captions is a token before.
        width: a multiple of 32, the width of a head.
        positions: most inputs.
    """
    from transformers import GPT2Config, GPT2LMHeadModel

    tokenizer = train_tokenizer(captions, vocabulary)
    config = GPT2Config(
        vocab_size=len(tokenizer),
        n_positions=positions,
        n_embd=width,
        n_layer=layers,
        n_head=width // HEAD_WIDTH,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
    )
    return GPT2LMHeadModel(config), tokenizer


def train_tokenizer(captions: Iterable[str], vocabulary: int) -> Any:
    """Learns GPT-2's kind of tokenizer; it takes any text, what is new is spelled byte by byte.

    Source: Sennrich et al., "Neural machine translation of rare words with subword units" (2016).
    """
    from tokenizers import Tokenizer
    from tokenizers.models import BPE
    from tokenizers.pre_tokenizers import ByteLevel
    from tokenizers.trainers import BpeTrainer
    from transformers import GPT2Tokenizer

    learner = Tokenizer(BPE())
    learner.pre_tokenizer = ByteLevel(add_prefix_space=False)
    trainer = BpeTrainer(
        vocab_size=vocabulary,
        initial_alphabet=sorted(ByteLevel.alphabet()),
        special_tokens=[END],
        show_progress=False,
    )
    learner.train_from_iterator(captions, trainer)
    model = json.loads(learner.to_str())["model"]
    return GPT2Tokenizer(vocab=model["vocab"], merges=[tuple(pair) for pair in model["merges"]])


def load_language(name: str) -> tuple[Any, Any]:
    """Loads a causal language model of transformers, in float32, and its tokenizer.

    Args:
        name: folder or hub name.

    Raises:
        ValueError: there is no such model, or its tokenizer has no token that ends a text.
    """
    from transformers import AutoModelForCausalLM, AutoTokenizer

    try:
        language = AutoModelForCausalLM.from_pretrained(name, dtype=torch.float32)
        tokenizer = AutoTokenizer.from_pretrained(name)
    except (OSError, ValueError) as error:
        raise ValueError(
            f"writer: expected `{SMALL}`, or a folder or hub name of a causal language model, "
            f"got {name}: {error}"
        ) from error
    if tokenizer.eos_token_id is None:
        raise ValueError(f"writer: {name}: its tokenizer has no token that ends a text")
    return language, tokenizer
