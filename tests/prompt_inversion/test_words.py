import pytest
import torch

from invcap.captioning import Caption
from invcap.diffusion.conditioning import Conditioning
from invcap.prompt_inversion import InversionSettings, words
from invcap.prompt_inversion.tokens import Words, read_vectors
from invcap.prompt_inversion.words import rank

STILL = InversionSettings(steps=0, held_out=16)
PROMPTS = ["a red square", "a green circle", "a room", "a green square", "a red circle"]


class Captioner:
    """Says the same of every picture."""

    def compose(self, images, top_k):
        return [[Caption(prompt, 0.0) for prompt in PROMPTS[:top_k]] for _ in images]


def test_each_round_keeps_the_better_half_and_doubles_the_samples(pipeline, pictures):
    latents = pipeline.model.encode_images(pictures)[0]
    found = rank(pipeline.model, latents, PROMPTS, draws=64)
    generator = torch.Generator().manual_seed(0)
    nats = latents.numel() * pipeline.log_likelihood(pictures[0], PROMPTS, 64, generator).terms
    prior = -torch.arange(1.0, 6.0).log()
    left = torch.arange(5)
    for first, stride, kept in ((4, 8, 3), (0, 4, 2), (0, 2, 1)):
        order = (nats[left, first::stride].mean(1) + prior[left]).argsort(descending=True)
        names = [PROMPTS[index] for index in left[order]]
        assert found.prompts[kept : len(left)] == names[kept:]
        left = left[order][:kept]
    assert found.prompts[0] == PROMPTS[left[0]]
    # 5 prompts on 8 pairs, 3 on 8, 2 on 16, 1 on 32.
    assert found.evaluations == 5 * 8 + 3 * 8 + 2 * 16 + 32
    with pytest.raises(ValueError, match="draws must be a multiple of 8, got 12"):
        rank(pipeline.model, latents, PROMPTS, draws=12)


@pytest.mark.parametrize(
    ("nats", "order"),
    [((0, 0, 0), "abc"), ((0, 0.5, 0.5), "abc"), ((0, 0.5, 2), "cab"), ((0, 9, 5), "bca")],
)
def test_the_order_decides_between_nearly_equal_likelihoods(
    pipeline, pictures, monkeypatch, nats, order
):
    latents = pipeline.model.encode_images(pictures)[0]
    bounds = torch.tensor(nats, dtype=torch.float64) / latents.numel()
    model = pipeline.model
    monkeypatch.setattr(
        model,
        "encode_prompts",
        lambda prompts: Conditioning({"bound": bounds[["abc".index(one) for one in prompts]]}),
    )
    monkeypatch.setattr(
        words,
        "bound_terms",
        lambda model, latents, prompts, samples: prompts.tensors["bound"][:, None].expand(
            samples.steps.shape
        ),
    )
    assert rank(model, latents, "abc").prompts == list(order)


def test_words_are_whole_words(pipeline):
    found = pipeline.model.tokenizer.convert_ids_to_tokens(pipeline.model.word_tokens)
    assert {"a</w>", "red</w>", "square</w>"} <= set(found)
    assert all(word.removesuffix("</w>").isalpha() for word in found)
    assert "b</w>" not in found and "red" not in found


def test_token_vectors_are_read_as_the_words_they_are(pipeline):
    model = pipeline.model
    ids = model.tokenize("a red square")
    vectors, known = model.token_table[ids], Words.of(model)
    # Cosine: their length does not matter.
    assert read_vectors(model, 3 * vectors[None]) == ["a red square"]
    nearest = known.nearest(vectors, 2)
    assert known.ids[nearest[:, 0]].tolist() == ids and nearest.shape == (3, 2)
    assert torch.equal(known.vectors[nearest[:, 0]], vectors)


def test_over_tokens_the_bound_is_that_of_the_nearest_words(pipeline, pictures):
    settings = InversionSettings(steps=6, draws=2, bank=16, held_out=16, learning_rate=1.0)
    found = pipeline.invert(pictures, "a red square", settings, "tokens")
    prompts = read_vectors(pipeline.model, found.token_vectors)
    expected = pipeline.model.encode_prompts(prompts).tensors["prompt_embeds"]
    torch.testing.assert_close(found.prompt_embeds, expected)
    assert any(prompt != "a red square" for prompt in prompts)


@pytest.mark.slow
def test_words_come_with_their_bound_beside_that_of_the_embedding(pipeline, pictures):
    found = pipeline.invert(pictures, "caption", STILL, captioner=Captioner(), words=True)
    begun = pipeline.model.encode_prompts(PROMPTS[:1]).tensors["prompt_embeds"]
    assert torch.equal(found.prompt_embeds, begun.expand_as(found.prompt_embeds))
    said = pipeline.invert(pictures, found.prompts, STILL)
    torch.testing.assert_close(found.prompt_log_likelihood, said.log_likelihood)
    torch.testing.assert_close(found.prompt_standard_error, said.standard_error)
    assert set(found.prompts) <= set(PROMPTS)


@pytest.mark.slow
def test_without_a_captioner_the_words_are_the_start_or_the_nearest_tokens(pipeline, pictures):
    plain = pipeline.invert(pictures, "a room", STILL, words=True)
    assert plain.prompts == ["a room"] * len(pictures)
    torch.testing.assert_close(plain.prompt_log_likelihood, plain.log_likelihood)
    settings = InversionSettings(steps=4, draws=2, bank=16, held_out=16)
    read = pipeline.invert(pictures, "a red square", settings, "token_vectors", words=True)
    nearest = read_vectors(pipeline.model, read.token_vectors)
    assert all(p in ("a red square", n) for p, n in zip(read.prompts, nearest, strict=True))
    with pytest.raises(ValueError, match="words need sentences, a proposer, a captioner or a"):
        pipeline.invert(pictures, torch.zeros(77, 16), STILL, words=True)
