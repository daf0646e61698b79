from contextlib import contextmanager
from dataclasses import replace
from math import isnan

import pytest
import torch
from invcap.prompt_inversion.inversion import Inversion

from invcap.diffusion.schedule import WEIGHTINGS
from invcap.prompt_inversion import InversionSettings, PromptInversionPipeline
from invcap.prompt_inversion.parametrization import parametrize
from invcap.prompt_inversion.state import State

SETTINGS = InversionSettings(
    steps=8,
    draws=4,
    bank=16,
    held_out=8,
    evaluate_every=2,
    patience=None,
    snapshots=3,
    checkpoint_every=3,
)
OVER = ("hidden_states", "token_vectors")
FIELDS = ("prompt_embeds", "log_likelihood", "standard_error")


def invert(pipeline, pictures, settings=SETTINGS, **options):
    return pipeline.invert(
        pictures, settings=settings, num_inference_steps=1, **{"start": "a room"} | options
    )


@contextmanager
def spoiled(pipeline, calls: set[int], row: int = 0):
    """Makes the UNet's output NaN for one of its latents, in some of its calls with a gradient."""
    count = 0

    def spoil(module, arguments, output):
        nonlocal count
        if torch.is_grad_enabled():
            if count in calls:
                output.sample[row] = torch.nan
            count += 1
        return output

    handle = pipeline.text_to_image.unet.register_forward_hook(spoil)
    try:
        yield
    finally:
        handle.remove()


class KilledError(Exception):
    pass


def kill_at(step: int):
    def callback(pipeline, done, values):
        if done == step:
            raise KilledError

    return callback


@pytest.mark.parametrize("over", OVER)
def test_the_held_out_bound_rises(pipeline, pictures, over):
    found = invert(pipeline, pictures, replace(SETTINGS, steps=20), over=over)
    for history, bound in zip(found.histories, found.log_likelihood.tolist(), strict=True):
        assert bound == max(history.held_out) > history.held_out[0]
        assert len(history.training) == 20
    assert found.prompt_embeds.shape == (3, 77, 16)
    assert [image.size for image in found.images] == [(16, 16)] * 3


@pytest.mark.parametrize("over", OVER)
@pytest.mark.parametrize("weighting", WEIGHTINGS)
def test_gradients_are_those_of_finite_differences(pipeline, pictures, over, weighting):
    pipeline.to(torch.float64)
    settings = replace(SETTINGS, weighting=weighting, timestep_range=(5, 45))
    vectors, hidden_of = parametrize(pipeline, ["a room"], over)
    latents = pipeline.model.encode_images(pictures[:1]).double()
    inversion = Inversion(pipeline, latents, vectors, [0], hidden_of, settings)
    rows, vectors = torch.tensor([0]), vectors.double()

    def loss(changed: torch.Tensor) -> torch.Tensor:
        """The weighted mean of squared errors, one UNet evaluation at a time."""
        bank, picked = inversion.banks[0], torch.arange(4) * 4 + inversion.order[0][0]
        chosen = pipeline.model.schedule.weights(weighting)
        total = torch.zeros((), dtype=torch.float64)
        hidden = hidden_of(changed, rows).double()
        for i in picked.tolist():
            step, noise = bank.steps[i : i + 1], bank.noise[i : i + 1].double()
            noisy = pipeline.model.schedule.noisy(latents, noise, step)
            error = (pipeline.text_to_image.unet(noisy, step, hidden).sample - noise).square().sum()
            total += chosen[step][0] / chosen[5:45].sum() * bank.importance[i] * error
        return total / 4

    gradient, _ = inversion.gradient(vectors, rows, 0)
    generator = torch.Generator().manual_seed(1)
    for _ in range(3):
        way = torch.randn(vectors.shape, dtype=torch.float64, generator=generator)
        with torch.no_grad():
            slope = (loss(vectors + 1e-3 * way) - loss(vectors - 1e-3 * way)) / 2e-3
        assert (gradient * way).sum().item() == pytest.approx(slope.item(), rel=2e-3, abs=1e-6)


def test_the_training_bound_is_that_of_the_steps_own_draws(pipeline, pictures):
    settings = replace(SETTINGS, draws=16)
    latents = pipeline.model.encode_images(pictures[:1])
    vectors, hidden_of = parametrize(pipeline, ["a room"], "hidden_states")
    inversion = Inversion(pipeline, latents, vectors, [0], hidden_of, settings)
    _, bound = inversion.gradient(vectors, torch.tensor([0]), 0)
    terms = pipeline.bound_terms(latents[0], vectors[0], inversion.banks[0])
    assert bound.item() == pytest.approx(terms.mean().item(), rel=1e-5)


@pytest.mark.parametrize(("draws", "pairs"), [(1, 0), (2, 1), (3, 1), (4, 2)])
def test_noise_of_opposite_signs_comes_in_pairs(pipeline, pictures, draws, pairs):
    settings = replace(SETTINGS, draws=draws, bank=6 * draws)
    latents = pipeline.model.encode_images(pictures[:1])
    vectors, hidden_of = parametrize(pipeline, ["a room"], "hidden_states")
    inversion = Inversion(pipeline, latents, vectors, [0], hidden_of, settings)
    noise = inversion.banks[0].noise.view(draws, 6, -1)
    for draw in range(pairs):
        assert torch.equal(noise[2 * draw], -noise[2 * draw + 1])
    assert len(noise.abs().flatten(0, 1).unique(dim=0)) == 6 * (draws - pairs)


@pytest.mark.parametrize("over", OVER)
def test_a_batch_gives_what_single_runs_give(pipeline, pictures, over):
    batch = invert(pipeline, pictures[:2], over=over, seeds=7)
    for i, picture in enumerate(pictures[:2]):
        single = invert(pipeline, picture, over=over, seeds=7 + i)
        for name in FIELDS:
            torch.testing.assert_close(
                batch[name][i], single[name][0], rtol=1e-3, atol=1e-3, msg=name
            )
        assert batch.steps[i] == single.steps[0]
        assert batch.unet_evaluations[i] == single.unet_evaluations[0] == 8 * 4 + 5 * 8


def test_one_seed_gives_one_result_and_another_seed_another(pipeline, pictures):
    one, same, other = (invert(pipeline, pictures[0], seeds=seed) for seed in (3, 3, 4))
    assert all(torch.equal(one[name], same[name]) for name in FIELDS)
    assert not torch.equal(one.prompt_embeds, other.prompt_embeds)


@pytest.mark.parametrize("over", OVER)
@pytest.mark.parametrize("killed_at", [2, 5])
def test_a_killed_and_resumed_run_gives_the_same(pipeline, pictures, tmp_path, over, killed_at):
    path = tmp_path / "checkpoint.safetensors"
    settings = replace(SETTINGS, average=0.5)
    whole = invert(pipeline, pictures, settings, over=over)
    with pytest.raises(KilledError):
        invert(
            pipeline,
            pictures,
            settings,
            over=over,
            checkpoint=path,
            callback_on_step_end=kill_at(killed_at),
        )
    assert path.exists() == (killed_at > 3)
    resumed = invert(pipeline, pictures, settings, over=over, checkpoint=path)
    for name in FIELDS:
        assert torch.equal(whole[name], resumed[name]), name
    assert whole.histories == resumed.histories
    assert all(torch.equal(v, resumed.snapshots[s]) for s, v in whole.snapshots.items())
    again = invert(pipeline, pictures, settings, over=over, checkpoint=path)
    assert torch.equal(again.prompt_embeds, whole.prompt_embeds)


@pytest.mark.parametrize(
    ("change", "name"),
    [
        ({"settings": replace(SETTINGS, steps=9)}, "settings"),
        ({"seeds": 5}, "seeds"),
        ({"start": "a red square"}, "start"),
    ],
)
def test_a_checkpoint_of_another_inversion_is_refused(pipeline, pictures, tmp_path, change, name):
    path = tmp_path / "checkpoint.safetensors"
    invert(pipeline, pictures[0], checkpoint=path)
    with pytest.raises(ValueError, match=f"cannot go on with another {name}"):
        invert(pipeline, pictures[0], checkpoint=path, **change)


def test_a_checkpoint_of_another_picture_or_model_is_refused(
    pipeline, other_folder, pictures, tmp_path
):
    path = tmp_path / "checkpoint.safetensors"
    invert(pipeline, pictures[0], checkpoint=path)
    with pytest.raises(ValueError, match="cannot go on with another pictures"):
        invert(pipeline, pictures[1], checkpoint=path)
    with pytest.raises(ValueError, match="cannot go on with another"):
        invert(PromptInversionPipeline.from_pretrained(other_folder), pictures[0], checkpoint=path)


def test_not_a_number_at_a_step_is_survived_and_touches_no_other_picture(pipeline, pictures):
    clean = invert(pipeline, pictures)
    with spoiled(pipeline, {4}):
        found = invert(pipeline, pictures)
    assert [history.rollbacks for history in found.histories] == [1, 0, 0]
    assert [isnan(bound) for bound in found.histories[0].training] == [i == 4 for i in range(8)]
    assert found.prompt_embeds.isfinite().all() and found.log_likelihood.isfinite().all()
    assert found.log_likelihood[0] > found.histories[0].held_out[0]
    assert torch.equal(found.prompt_embeds[1:], clean.prompt_embeds[1:])


def test_a_picture_that_never_gives_a_number_stops_where_it_began(pipeline, pictures):
    settings = replace(SETTINGS, max_rollbacks=2)
    with spoiled(pipeline, {0, 1, 2}):
        found = invert(pipeline, pictures[:2], settings)
    assert found.steps[0] == 0 and found.histories[0].rollbacks == 3
    assert [len(history.training) for history in found.histories] == [3, 8]
    assert found.histories[0].evaluated == [0, 2]
    assert torch.equal(found.prompt_embeds[0], pipeline.model.encode_prompts(["a room"])[0])
    assert found.unet_evaluations[0] < found.unet_evaluations[1] == 8 * 4 + 5 * 8


def test_a_step_that_is_far_too_large_returns_to_the_best(pipeline, pictures):
    settings = replace(SETTINGS, steps=40, learning_rate=30.0, patience=2, max_rollbacks=20)
    found = invert(pipeline, pictures[0], settings)
    history = found.histories[0]
    assert history.rollbacks >= 1
    assert found.log_likelihood[0] == max(history.held_out) >= history.held_out[0]


def test_a_picture_without_progress_stops_and_the_others_go_on(pipeline, pictures):
    vectors, hidden_of = parametrize(pipeline, ["a room"] * 2, "hidden_states")
    latents = pipeline.model.encode_images(pictures[:2])
    settings = replace(SETTINGS, patience=2, max_rollbacks=0)
    inversion = Inversion(pipeline, latents, vectors, [0, 1], hidden_of, settings)
    state = State.start(vectors)
    state.best_bound[0] = 1e3

    def progress(state: State) -> None:
        state.best_bound[1] = -1e3

    inversion.run(state, progress)
    assert state.active.tolist() == [False, True]
    assert state.evaluations.tolist() == [2 * 4 + 2 * 8, 8 * 4 + 5 * 8]


def test_gradients_are_clipped_to_their_usual_size(pipeline, pictures):
    vectors, hidden_of = parametrize(pipeline, ["a room"], "hidden_states")
    latents = pipeline.model.encode_images(pictures[:1])
    inversion = Inversion(pipeline, latents, vectors, [0], hidden_of, SETTINGS)
    state, row = State.start(vectors), torch.tensor([0])
    usual = torch.ones_like(vectors)
    inversion._update(state, row, usual)
    before = state.momentum.clone()
    inversion._update(state, row, 1e6 * usual)
    added = state.momentum - 0.9 * before
    torch.testing.assert_close(added, 0.1 * SETTINGS.clip * usual, rtol=1e-4, atol=1e-4)


def test_the_learning_rate_falls_linearly(pipeline, pictures):
    vectors, hidden_of = parametrize(pipeline, ["a room"], "hidden_states")
    latents = pipeline.model.encode_images(pictures[:1])
    inversion = Inversion(pipeline, latents, vectors, [0], hidden_of, SETTINGS)
    for step, share in ((0, 1.0), (2, 0.75), (7, 0.125)):
        state = State.start(vectors)
        state.step = step
        inversion._update(state, torch.tensor([0]), torch.ones_like(vectors))
        size = SETTINGS.learning_rate * vectors.square().mean().sqrt()
        torch.testing.assert_close(state.vectors, vectors - share * size)


def test_the_average_follows_the_vectors(pipeline, pictures):
    found = invert(pipeline, pictures[0], replace(SETTINGS, average=0.99))
    free = invert(pipeline, pictures[0])
    start = pipeline.model.encode_prompts(["a room"])[0]
    near, far = ((f.prompt_embeds[0] - start).norm() for f in (found, free))
    assert 0 < near < 0.5 * far


def test_the_callback_sees_every_step(pipeline, pictures):
    seen = []

    def callback(passed, step, values):
        assert passed is pipeline
        seen.append((step, values["vectors"].shape, values["held_out"].shape))

    invert(pipeline, pictures[:2], callback_on_step_end=callback)
    assert seen == [(step, (2, 77, 16), (2,)) for step in range(1, 9)]


def test_checkpointed_activations_and_sliced_attention_give_the_same(pipeline, folder, pictures):
    plain = invert(pipeline, pictures[0])
    pipeline.enable_gradient_checkpointing()
    torch.testing.assert_close(invert(pipeline, pictures[0]).prompt_embeds, plain.prompt_embeds)
    sliced = PromptInversionPipeline.from_pretrained(folder)
    sliced.enable_attention_slicing(1)
    torch.testing.assert_close(
        invert(sliced, pictures[0]).prompt_embeds, plain.prompt_embeds, rtol=1e-3, atol=1e-3
    )


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_networks_keep_a_float32_embedding(folder, pictures, dtype):
    half = PromptInversionPipeline.from_pretrained(folder, dtype=dtype)
    found = invert(half, pictures[0], replace(SETTINGS, steps=20))
    assert found.prompt_embeds.dtype == torch.float32
    assert found.log_likelihood[0] > found.histories[0].held_out[0]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"draws": 0}, "draws must be at least 1, got 0"),
        ({"bank": 10}, "bank must be a multiple of draws, 4, got 10"),
        ({"held_out": 1}, "held_out must be at least 2, got 1"),
        ({"weighting": "snr"}, "weighting must be one of"),
        ({"learning_rate": 0.0}, "learning_rate must be above 0"),
        ({"clip": 0.0}, "clip must be above 0"),
        ({"average": 1.0}, "average must be from 0 to below 1"),
        ({"momentum": 1.0}, "momentum must be from 0 to below 1"),
        ({"lr_decay_power": -1.0}, "lr_decay_power must be at least 0"),
        ({"steps": -1}, "steps must be at least 0"),
    ],
)
def test_bad_settings_are_named(change, message):
    with pytest.raises(ValueError, match=message):
        replace(SETTINGS, **change)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"start": ""}, "a prompt must have words, got ''"),
        ({"start": "red " * 100}, "a prompt has at most 77 tokens"),
        ({"start": ["a room"] * 2}, "start must be one, or one for each of 3 pictures, got 2"),
        ({"seeds": [1, 2]}, "seeds must be one, or one for each of 3 pictures, got 2"),
        ({"over": "words"}, "over must be one of .* got 'words'"),
        ({"size": (15, 16)}, "size must be multiples of 2 pixels, got 15 x 16"),
    ],
)
def test_bad_arguments_are_named(pipeline, pictures, options, message):
    with pytest.raises(ValueError, match=message):
        invert(pipeline, pictures, **options)


def test_starts_of_unequal_length_cannot_share_a_batch_of_token_vectors(pipeline, pictures):
    with pytest.raises(ValueError, match="equally many tokens for all pictures, got"):
        invert(pipeline, pictures[:2], start=["a room", "a big red room"], over="token_vectors")
