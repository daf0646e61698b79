import pytest
import torch

from invcap.captioning.model import Caption
from invcap.prompt_inversion import InversionSettings
from invcap.diffusion.conditioning import Conditioning
from invcap.prompt_inversion import words
from invcap.prompt_inversion.tokens import nearest_tokens, read_tokens, word_tokens
from invcap.prompt_inversion.words import rank

STILL = InversionSettings(steps=0, held_out=16)
PROMPTS = ["a red square", "a green circle", "a room", "a green square", "a red circle"]


class Captioner:
    """Says the same of every picture."""

    def compose(self, images, top_k):
        return [[Caption(prompt, 0.0) for prompt in PROMPTS[:top_k]] for _ in images]


def test_ranking_ends_with_a_prompt_that_no_measured_rival_beats_on_all_samples(pipeline, pictures):
    latents = pipeline.model.encode_images(pictures)[0]
    found = rank(pipeline.model, latents, PROMPTS, draws=64)
    every = pipeline.log_likelihood(pictures[0], PROMPTS, 64, torch.Generator().manual_seed(0))
    assert sorted(found.prompts) == sorted(PROMPTS)
    # 5 prompts on 8 pairs, 3 on 8, 2 on 16, 1 on 32.
    assert found.evaluations == 5 * 8 + 3 * 8 + 2 * 16 + 32
    place = [PROMPTS[i] for i in every.bound.argsort(descending=True)].index(found.prompts[0])
    assert place <= 1
    two = rank(pipeline.model, latents, [found.prompts[-1], found.prompts[0]], draws=64)
    assert two.prompts[0] == found.prompts[0]
    with pytest.raises(ValueError, match="draws must be a multiple of 8, got 12"):
        rank(pipeline.model, latents, PROMPTS, draws=12)


@pytest.mark.parametrize(
    ("nats", "order"),
    [((0, 0, 0), "abc"), ((0, 0.5, 0.5), "abc"), ((0, 0.5, 2), "cab"), ((0, 9, 5), "bca")],
)
def test_the_order_decides_where_the_likelihood_hardly_does(
    pipeline, pictures, monkeypatch, nats, order
):
    latents = pipeline.model.encode_images(pictures)[0]
    bounds = torch.tensor(nats, dtype=torch.float64) / latents.numel()
    model = pipeline.model
    monkeypatch.setattr(model, "encode_prompts", lambda prompts: Conditioning({"bound": bounds}))
    monkeypatch.setattr(
        words,
        "bound_terms",
        lambda model, latents, prompts, samples: (
            prompts.tensors["bound"][:, None].expand(samples.steps.shape)
        ),
    )
    assert rank(model, latents, "abc").prompts == list(order)


def test_words_are_whole_words(pipeline):
    tokenizer = pipeline.model.tokenizer
    found = tokenizer.convert_ids_to_tokens(word_tokens(tokenizer).tolist())
    assert {"a</w>", "red</w>", "square</w>"} <= set(found)
    assert all(word.removesuffix("</w>").isalpha() for word in found)
    assert "b</w>" not in found and "red" not in found


def test_token_vectors_are_read_as_the_words_they_are(pipeline):
    ids = pipeline.model.tokenizer("a red square", add_special_tokens=False).input_ids
    table = pipeline.text_to_image.text_encoder.get_input_embeddings().weight
    # Cosine: their length does not matter.
    assert read_tokens(pipeline.model, 3 * table[ids][None]) == ["a red square"]
    numbers, vectors = nearest_tokens(pipeline.model, table[ids], 2)
    assert numbers[:, 0].tolist() == ids and vectors.shape == (3, 2, table.shape[1])


def test_over_tokens_what_is_measured_is_what_the_words_give(pipeline, pictures):
    settings = InversionSettings(steps=6, draws=2, bank=16, held_out=16, learning_rate=1.0)
    found = pipeline.invert(pictures, "a red square", settings, "tokens")
    prompts = read_tokens(pipeline.model, found.token_vectors)
    expected = pipeline.model.encode_prompts(prompts).tensors["prompt_embeds"]
    torch.testing.assert_close(found.prompt_embeds, expected)
    assert any(prompt != "a red square" for prompt in prompts)


def test_words_come_with_their_bound_beside_that_of_the_embedding(pipeline, pictures):
    found = pipeline.invert(pictures, "caption", STILL, captioner=Captioner(), words=True)
    begun = pipeline.model.encode_prompts(PROMPTS[:1]).tensors["prompt_embeds"]
    assert torch.equal(found.prompt_embeds, begun.expand_as(found.prompt_embeds))
    for index in range(len(pictures)):
        if found.prompts[index] == PROMPTS[0]:
            torch.testing.assert_close(
                found.prompt_log_likelihood[index], found.log_likelihood[index]
            )
    assert set(found.prompts) <= set(PROMPTS)
    assert (found.prompt_standard_error > 0).all()


def test_without_a_captioner_the_words_are_the_start_or_the_nearest_tokens(pipeline.model, pictures):
    plain = pipeline.invert(pictures, "a room", STILL, words=True)
    assert plain.prompts == ["a room"] * len(pictures)
    torch.testing.assert_close(plain.prompt_log_likelihood, plain.log_likelihood)
    settings = InversionSettings(steps=4, draws=2, bank=16, held_out=16)
    read = pipeline.invert(pictures, "a red square", settings, "token_vectors", words=True)
    nearest = read_tokens(pipeline.model, read.token_vectors)
    assert all(p in ("a red square", n) for p, n in zip(read.prompts, nearest, strict=True))
    with pytest.raises(ValueError, match="words need a captioner or a start that is a sentence"):
        pipeline.invert(pictures, torch.zeros(77, 16), STILL, words=True)
