"""A CLIP tokenizer with a vocabulary learned from captions, which can encode any text."""

from __future__ import annotations

import json
from collections.abc import Iterable

from tokenizers.pre_tokenizers import ByteLevel
from tokenizers.trainers import BpeTrainer
from transformers import CLIPTokenizer

MAX_LENGTH = 77
START, END = "<|startoftext|>", "<|endoftext|>"
WORD_END = "</w>"


def train_tokenizer(
    captions: Iterable[str], merges: int = 256, length: int = MAX_LENGTH
) -> CLIPTokenizer:
    """Learns byte-pair merges from captions; other text is encoded byte by byte.

    The vocabulary has the order of CLIP's: 256 bytes, 256 bytes at the end of a word, one token for
    each merge, start and end of the text.

    Args:
        captions: sentences to learn from.
        merges: largest number of merges; fewer are learned if every word is a token before that.
        length: most tokens of a prompt, with start and end.

    Source: Sennrich et al., "Neural machine translation of rare words with subword units" (2016).
    """
    alphabet = sorted(ByteLevel.alphabet())
    trainer = BpeTrainer(
        vocab_size=2 * len(alphabet) + merges,
        initial_alphabet=alphabet,
        end_of_word_suffix=WORD_END,
        show_progress=False,
    )
    learner = CLIPTokenizer().backend_tokenizer
    learner.train_from_iterator(captions, trainer)
    pairs = [tuple(pair) for pair in json.loads(learner.to_str())["model"]["merges"]]
    tokens = [*alphabet, *(byte + WORD_END for byte in alphabet), *map("".join, pairs), START, END]
    return CLIPTokenizer(
        vocab={token: index for index, token in enumerate(dict.fromkeys(tokens))},
        merges=pairs,
        model_max_length=length,
    )
