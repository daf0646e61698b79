"""What of a prompt is optimised: its hidden states, or the vectors of its tokens."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Literal, get_args

from torch import Tensor, nn
from transformers import CLIPTextModel

if TYPE_CHECKING:
    from invcap.prompt_inversion.pipeline import PromptInversionPipeline

Over = Literal["hidden_states", "token_vectors"]
HiddenOf = Callable[[Tensor, Tensor], Tensor]


def parametrise(
    pipeline: PromptInversionPipeline, starts: Sequence[str], over: Over
) -> tuple[Tensor, HiddenOf]:
    """The vectors of P sentences to optimise, and the way from them to hidden states.

    Returns:
        Vectors (P, N, d) float32: hidden states, N = 77, or one for each token of the sentences.
        A differentiable function of some pictures' vectors (A, N, d), and which of the P these
        are (A,), to their hidden states (A, 77, d) float32.

    Raises:
        ValueError: `over` or a sentence cannot be used, or tokens are to be optimised and the
            sentences have different numbers of them.
    """
    if over not in get_args(Over):
        raise ValueError(f"over must be one of {get_args(Over)}, got {over!r}")
    if over == "hidden_states":
        return pipeline.encode_prompts(starts), lambda vectors, rows: vectors
    for start in starts:
        pipeline.check_prompt(start)
    tokenizer, text_encoder = pipeline.tokenizer, pipeline.text_encoder
    counts = {len(tokenizer(start).input_ids) - 2 for start in starts}
    if len(counts) > 1:
        raise ValueError(
            f"start must have equally many tokens for all pictures, got {sorted(counts)}"
        )
    ids = tokenizer(list(starts), padding="max_length", return_tensors="pt").input_ids
    ids = ids.to(text_encoder.device)
    within = slice(1, 1 + counts.pop())
    vectors = text_encoder.get_input_embeddings()(ids[:, within])

    def hidden_of(vectors: Tensor, rows: Tensor) -> Tensor:
        with replaced_embeddings(text_encoder, within, vectors):
            return text_encoder(ids[rows])[0].float().cpu()

    return vectors.float().cpu(), hidden_of


@contextmanager
def replaced_embeddings(
    text_encoder: CLIPTextModel, within: slice, vectors: Tensor
) -> Iterator[None]:
    """Lets a text encoder see vectors (A, n, d) at the positions `within` of its A prompts."""

    def replace(module: nn.Module, arguments: Any, embedded: Tensor) -> Tensor:
        changed = embedded.clone()
        changed[:, within] = vectors.to(embedded)
        return changed

    handle = text_encoder.get_input_embeddings().register_forward_hook(replace)
    try:
        yield
    finally:
        handle.remove()
