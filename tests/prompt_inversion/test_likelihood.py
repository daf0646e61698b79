import pytest
import torch
from PIL import Image
from random_pipeline import STEPS, WIDTH, make_pipeline

from invcap.diffusion.families import frozen
from invcap.diffusion.noise_samples import NoiseSamples
from invcap.prompt_inversion import InversionSettings, PromptInversionPipeline
from invcap.prompt_inversion.bank import make_bank
from invcap.prompt_inversion.objective import Objective, bound_terms
from invcap.prompt_inversion.parametrization import parametrize

PROMPTS = ["a red square", "a room"]


@pytest.mark.slow
@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction"])
def test_the_bound_is_the_papers_sum_written_out(pictures, prediction):
    model = frozen(make_pipeline(prediction_type=prediction))
    latents = model.encode_images(pictures[0])
    prompt = model.encode_prompts(PROMPTS[:1])
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(STEPS, *latents.shape[1:], generator=generator)
    every = NoiseSamples(torch.arange(STEPS), noise, torch.full((STEPS,), float(STEPS)).double())
    found = bound_terms(model, latents, prompt, every.expand(1)).mean()
    expected = slow_bound(model.pipeline, latents[0], prompt.tensors["prompt_embeds"][0], noise)
    assert found.item() == pytest.approx(expected, rel=1e-4)


def slow_bound(pipeline, x0, hidden, noise) -> float:
    """-KL(q(x_T|x_0) | p(x_T)) - sum_t KL(q(x_{t-1}|x_t,x_0) | p(x_{t-1}|x_t)) + log p(x_0|x_1)."""
    abar = [1.0, *pipeline.scheduler.alphas_cumprod.tolist()]
    normal = torch.distributions.Normal
    end = normal(abar[-1] ** 0.5 * x0, (1 - abar[-1]) ** 0.5)
    total = -torch.distributions.kl_divergence(end, normal(0.0, 1.0)).sum()
    for t in range(1, STEPS + 1):
        e = noise[t - 1]
        alpha = abar[t] / abar[t - 1]
        xt = abar[t] ** 0.5 * x0 + (1 - abar[t]) ** 0.5 * e
        with torch.no_grad():
            guess = pipeline.unet(xt[None], torch.tensor([t - 1]), hidden[None]).sample[0]
        if pipeline.scheduler.config.prediction_type == "epsilon":
            clean = (xt - (1 - abar[t]) ** 0.5 * guess) / abar[t] ** 0.5
        else:
            clean = abar[t] ** 0.5 * xt - (1 - abar[t]) ** 0.5 * guess
        if t == 1:
            total += normal(clean, (1 - abar[1]) ** 0.5).log_prob(x0).sum()
            continue
        scale = abar[t - 1] ** 0.5 * (1 - alpha) / (1 - abar[t])
        mean_1, mean_2 = (
            alpha**0.5 * (1 - abar[t - 1]) / (1 - abar[t]) * xt + scale * x for x in (x0, clean)
        )
        variance = (1 - alpha) * (1 - abar[t - 1]) / (1 - abar[t])
        total -= (mean_1 - mean_2).square().sum() / (2 * variance)
    return total.item() / x0.numel()


def test_prompts_are_compared_on_the_same_noise_samples(pipeline, pictures):
    found = pipeline.log_likelihood(pictures[0], [*PROMPTS, PROMPTS[0]], draws=32)
    assert found.terms.shape == (3, 32)
    assert torch.equal(found.terms[0], found.terms[2])
    assert found.difference(0, 2) == (0.0, 0.0)


def test_paired_differences_are_more_certain_than_the_bounds(pipeline, pictures):
    found = pipeline.log_likelihood(pictures[0], PROMPTS, draws=64)
    difference, error = found.difference(0, 1)
    assert difference == pytest.approx((found.bound[0] - found.bound[1]).item())
    assert error < found.standard_error.min() / 5
    assert found.bound[found.best] == found.bound.max()


def test_bounds_on_other_noise_samples_agree_within_their_errors(pipeline, pictures):
    one, other = (
        pipeline.log_likelihood(
            pictures[0], PROMPTS, draws=128, generator=torch.Generator().manual_seed(seed)
        )
        for seed in (1, 2)
    )
    errors = (one.standard_error.square() + other.standard_error.square()).sqrt()
    assert not torch.equal(one.terms, other.terms)
    assert ((one.bound - other.bound).abs() < 5 * errors).all()


def test_the_number_of_evaluations_at_once_does_not_matter(pipeline, pictures):
    whole = pipeline.log_likelihood(pictures[0], PROMPTS, draws=10).terms
    pipeline.model.max_batch = 3
    parts = pipeline.log_likelihood(pictures[0], PROMPTS, draws=10).terms
    torch.testing.assert_close(parts, whole, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("latents", "most"),
    [((8, 8), 32), ((16, 16), 16), ((32, 64), 2), ((64, 64), 1), ((128, 128), 1)],
)
def test_fewer_large_latents_than_small_ones_are_evaluated_at_once(
    pipeline, latents, most, monkeypatch
):
    model, counts = pipeline.model, []
    assert model.batch_size(*latents) == most

    def predict_noise(noisy, steps, conditioning):
        counts.append(len(noisy))
        return torch.zeros_like(noisy) + conditioning.tensors["prompt_embeds"].mean()

    monkeypatch.setattr(model, "predict_noise", predict_noise)
    image, size = torch.rand(1, 4, *latents), (latents[0] * 2, latents[1] * 2)
    monkeypatch.setattr(model, "encode_pixels", lambda pixels: image)
    pipeline.log_likelihood(Image.new("RGB", size), ["a room"], draws=64, size=size)
    assert sum(counts) == 64 and max(counts) == most
    counts.clear()
    vectors, conditioning_of = parametrize(model, ["a room"], "hidden_states")
    settings = InversionSettings(draws=64, bank=64, held_out=2)
    Objective(model, image, conditioning_of, [0], settings).gradient(vectors, torch.arange(1), 0)
    assert sum(counts) == 64 and max(counts) == most


def test_at_most_eight_prompts_are_encoded_at_once(pipeline, pictures, tmp_path, monkeypatch):
    model, counts = pipeline.model, []
    encode = model.encode_few
    monkeypatch.setattr(model, "encode_few", lambda few: counts.append(len(few)) or encode(few))
    prompts = ["red " * (1 + number) for number in range(20)]
    (whole,) = model.encode_prompts(prompts).tensors.values()
    for prompt, one in zip(prompts, whole, strict=True):
        (alone,) = encode([prompt]).tensors.values()
        torch.testing.assert_close(one[None], alone)
    pipeline.log_likelihood(pictures[0], prompts, draws=2)
    assert counts == 2 * [8, 8, 4]
    pipeline.likeliest(pictures[0], prompts, draws=16)
    assert counts[6:] == [8, 8, 4, 8, 2]
    counts.clear()
    make_bank(model, prompts, tmp_path)
    assert counts == [8, 8, 4] or counts == [1, 8, 8, 4]


def test_many_images_prompts_and_samples_are_measured_as_one_at_a_time(pipeline, pictures):
    model = pipeline.model
    latents, prompts = model.encode_images(pictures[:2]), model.encode_prompts(PROMPTS)
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(2, 3, *latents.shape[1:], generator=generator)
    steps = torch.tensor([[3, 20, 40], [1, 7, 30]])
    samples = NoiseSamples(steps, noise, torch.rand(2, 3, generator=generator).double())
    together = bound_terms(model, latents, prompts, samples)
    for i in range(2):
        for j in range(3):
            one = samples[i : i + 1].map(lambda tensor, j=j: tensor[:, j : j + 1])
            alone = bound_terms(model, latents[i : i + 1], prompts[i : i + 1], one)
            torch.testing.assert_close(together[i, j], alone[0, 0], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("size", [(16, 16), (16, 24), (32, 16)])
def test_sizes_need_not_be_square(pipeline, pictures, size):
    latents = pipeline.model.encode_images(pictures[0], size)
    assert latents.shape == (1, 4, size[0] // 2, size[1] // 2)
    found = pipeline.log_likelihood(pictures[0], PROMPTS, draws=4, size=size)
    assert found.bound.isfinite().all()


@pytest.mark.parametrize(("dtype", "tolerance"), [("bfloat16", 0.02), ("float16", 0.005)])
def test_half_precision_gives_nearly_the_same_bound(folder, pipeline, pictures, dtype, tolerance):
    half = PromptInversionPipeline.from_pretrained(folder, dtype=getattr(torch, dtype))
    half.set_progress_bar_config(disable=True)
    found, exact = (p.log_likelihood(pictures[0], PROMPTS, draws=16) for p in (half, pipeline))
    assert half.model.dtype == getattr(torch, dtype)
    assert found.bound.tolist() == pytest.approx(exact.bound.tolist(), rel=tolerance)


def test_latents_carry_the_autoencoders_own_scale(own_pipeline, pictures):
    pipeline = own_pipeline
    latents = pipeline.model.encode_images(pictures)
    assert latents.shape == (3, 4, 8, 8) and latents.dtype == torch.float32
    pipeline.text_to_image.vae.register_to_config(scaling_factor=1.4)
    torch.testing.assert_close(pipeline.model.encode_images(pictures), 2 * latents)


def test_hidden_states_are_those_of_stable_diffusion(pipeline):
    model = pipeline.model
    hidden = model.encode_prompts(PROMPTS).tensors["prompt_embeds"]
    ids = model.tokenizer(PROMPTS, padding="max_length", return_tensors="pt").input_ids
    assert hidden.shape == (2, 77, WIDTH)
    torch.testing.assert_close(hidden, model.pipeline.text_encoder(ids)[0])


def test_rows_are_in_the_order_given_and_compare_with_the_best(pipeline, pictures):
    found = pipeline.log_likelihood(pictures[0], PROMPTS, draws=8)
    rows = found.rows()
    assert [row["prompt"] for row in rows] == PROMPTS
    for index, row in enumerate(rows):
        assert row["log_likelihood"] == found.bound[index].item()
        difference = row["difference"], row["difference_standard_error"]
        assert difference == found.difference(index, found.best)
