from contextlib import contextmanager
from dataclasses import replace
from math import isnan, nan

import pytest
import torch
from kills import KilledError, kill_at

from invcap.diffusion.schedule import WEIGHTINGS
from invcap.files import write_tensors
from invcap.prompt_inversion import InversionSettings, PromptInversionPipeline
from invcap.prompt_inversion.objective import Objective, bound_terms
from invcap.prompt_inversion.optimizer import adam_step, maximize
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
    """Makes the UNet's output NaN for one of its latents, in some of its calls with a gradient.

    Yields the numbers of latents of those calls, as they come.
    """
    seen: list[int] = []

    def spoil(module, arguments, output):
        if torch.is_grad_enabled():
            if len(seen) in calls:
                output.sample[row] = torch.nan
            seen.append(len(output.sample))
        return output

    handle = pipeline.text_to_image.unet.register_forward_hook(spoil)
    try:
        yield seen
    finally:
        handle.remove()


def problem(pipeline, pictures, settings=SETTINGS, over="hidden_states"):
    """The objective of some pictures from "a room", and the vectors to begin with."""
    model = pipeline.model
    vectors, conditioning_of = parametrize(model, ["a room"] * len(pictures), over)
    latents = model.encode_images(pictures)
    seeds = range(len(pictures))
    return Objective(model, latents, conditioning_of, seeds, settings), vectors


@pytest.mark.slow
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
def test_gradients_are_those_of_finite_differences(own_pipeline, pictures, over, weighting):
    pipeline = own_pipeline.to(torch.float64)
    settings = replace(SETTINGS, weighting=weighting, timestep_range=(5, 45))
    objective, vectors = problem(pipeline, pictures[:1], settings, over)
    objective.latents = objective.latents.double()
    objective.training = replace(objective.training, noise=objective.training.noise.double())
    rows, vectors = torch.tensor([0]), vectors.double()
    schedule, samples = pipeline.model.schedule, objective.training[0]
    picked = (torch.arange(4) * 4 + objective.order[0, 0]).tolist()

    def loss(changed: torch.Tensor) -> torch.Tensor:
        """The weighted mean of squared errors, one UNet evaluation at a time."""
        chosen, total = schedule.weights(weighting), torch.zeros((), dtype=torch.float64)
        hidden = objective.conditioning_of(changed, rows).tensors["prompt_embeds"].double()
        for i in picked:
            step, noise = samples.steps[i : i + 1], samples.noise[i : i + 1]
            noisy = schedule.noisy(objective.latents, noise, step)
            error = (pipeline.text_to_image.unet(noisy, step, hidden).sample - noise).square().sum()
            total += chosen[step][0] / chosen[5:45].sum() * samples.importance[i] * error
        return total / 4

    gradient, _ = objective.gradient(vectors, rows, 0)
    generator = torch.Generator().manual_seed(1)
    for _ in range(3):
        way = torch.randn(vectors.shape, dtype=torch.float64, generator=generator)
        with torch.no_grad():
            slope = (loss(vectors + 1e-3 * way) - loss(vectors - 1e-3 * way)) / 2e-3
        assert (gradient * way).sum().item() == pytest.approx(slope.item(), rel=2e-3, abs=1e-6)


def test_the_training_bound_is_that_of_the_steps_own_draws(pipeline, pictures):
    objective, vectors = problem(pipeline, pictures[:1], replace(SETTINGS, draws=16))
    _, bound = objective.gradient(vectors, torch.tensor([0]), 0)
    prompt = pipeline.model.encode_prompts(["a room"])
    terms = bound_terms(pipeline.model, objective.latents, prompt, objective.training)
    assert bound.item() == pytest.approx(terms.mean().item(), rel=1e-5)


@pytest.mark.parametrize(("draws", "pairs"), [(1, 0), (2, 1), (3, 1), (4, 2)])
def test_noise_of_opposite_signs_comes_in_pairs(pipeline, pictures, draws, pairs):
    objective, _ = problem(pipeline, pictures[:1], replace(SETTINGS, draws=draws, bank=6 * draws))
    noise = objective.training.noise.view(draws, 6, -1)
    for draw in range(pairs):
        assert torch.equal(noise[2 * draw], -noise[2 * draw + 1])
    assert len(noise.abs().flatten(0, 1).unique(dim=0)) == 6 * (draws - pairs)


@pytest.mark.slow
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


@pytest.mark.slow
def test_one_seed_gives_one_result_and_another_seed_another(pipeline, pictures):
    one, same, other = (invert(pipeline, pictures[0], seeds=seed) for seed in (3, 3, 4))
    assert all(torch.equal(one[name], same[name]) for name in FIELDS)
    assert not torch.equal(one.prompt_embeds, other.prompt_embeds)


@pytest.mark.slow
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
    assert list(whole.snapshots) == list(resumed.snapshots)
    for step, states in whole.snapshots.items():
        for name, tensor in states.tensors.items():
            assert torch.equal(tensor, resumed.snapshots[step].tensors[name])
    again = invert(pipeline, pictures, settings, over=over, checkpoint=path)
    assert torch.equal(again.prompt_embeds, whole.prompt_embeds)


@pytest.mark.parametrize(
    ("change", "name"),
    [
        ({"settings": replace(SETTINGS, steps=9)}, "steps"),
        ({"seeds": 5}, "seeds"),
        ({"start": "a red square"}, "start"),
    ],
)
def test_a_checkpoint_of_another_inversion_is_refused(pipeline, pictures, tmp_path, change, name):
    path = tmp_path / "checkpoint.safetensors"
    invert(pipeline, pictures[0], checkpoint=path)
    with pytest.raises(ValueError, match=f"checkpoint.safetensors: cannot resume: {name} differs"):
        invert(pipeline, pictures[0], checkpoint=path, **change)


def test_a_checkpoint_of_another_picture_or_model_is_refused(
    pipeline, other_folder, pictures, tmp_path
):
    path = tmp_path / "checkpoint.safetensors"
    invert(pipeline, pictures[0], checkpoint=path)
    with pytest.raises(ValueError, match="cannot resume: images differs"):
        invert(pipeline, pictures[1], checkpoint=path)
    with pytest.raises(ValueError, match="cannot resume: "):
        invert(PromptInversionPipeline.from_pretrained(other_folder), pictures[0], checkpoint=path)


def test_a_file_that_is_no_checkpoint_is_named(pipeline, pictures, tmp_path):
    path = tmp_path / "checkpoint.safetensors"
    write_tensors(path, {"vectors": torch.ones(2)}, step="1", identity="{}")
    message = r"checkpoint\.safetensors: not a checkpoint of an inversion"
    with pytest.raises(ValueError, match=message):
        invert(pipeline, pictures[0], checkpoint=path)


@pytest.mark.slow
def test_a_step_that_is_not_finite_is_undone_and_changes_no_other_picture(pipeline, pictures):
    clean = invert(pipeline, pictures)
    with spoiled(pipeline, {4}):
        found = invert(pipeline, pictures)
    assert [history.rollbacks for history in found.histories] == [1, 0, 0]
    assert [isnan(bound) for bound in found.histories[0].training] == [i == 4 for i in range(8)]
    assert found.prompt_embeds.isfinite().all() and found.log_likelihood.isfinite().all()
    assert found.log_likelihood[0] > found.histories[0].held_out[0]
    assert torch.equal(found.prompt_embeds[1:], clean.prompt_embeds[1:])


def test_a_picture_whose_steps_are_never_finite_stops_at_its_start(pipeline, pictures):
    settings = replace(SETTINGS, max_rollbacks=2)
    with spoiled(pipeline, {0, 1, 2}):
        found = invert(pipeline, pictures[:2], settings)
    assert found.steps[0] == 0 and found.histories[0].rollbacks == 3
    assert [len(history.training) for history in found.histories] == [3, 8]
    assert found.histories[0].evaluated == [0, 2]
    begun = pipeline.model.encode_prompts(["a room"] * 2).tensors["prompt_embeds"]
    assert torch.equal(found.prompt_embeds[0], begun[0])
    assert found.unet_evaluations[0] == 3 * 4 + 2 * 8
    assert found.unet_evaluations[1] == 8 * 4 + 5 * 8


def test_a_picture_that_stopped_is_computed_on_until_the_next_measurement(pipeline, pictures):
    settings = replace(SETTINGS, max_rollbacks=0, evaluate_every=4)
    with spoiled(pipeline, {1}) as calls:
        found = invert(pipeline, pictures[:2], settings)
    assert calls == [2 * 4] * 4 + [4] * 4
    assert [len(history.training) for history in found.histories] == [2, 8]
    assert found.unet_evaluations == [2 * 4 + 8, 8 * 4 + 3 * 8]


@pytest.mark.parametrize(("killed_at", "left"), [(3, [8, 4, 4, 4, 4]), (5, [4, 4, 4])])
def test_a_run_killed_after_a_picture_stopped_gives_the_same(
    pipeline, pictures, tmp_path, killed_at, left
):
    settings = replace(SETTINGS, max_rollbacks=0, evaluate_every=4, checkpoint_every=1)
    with spoiled(pipeline, {1}):
        whole = invert(pipeline, pictures[:2], settings)
    path = tmp_path / "checkpoint.safetensors"
    with spoiled(pipeline, {1}), pytest.raises(KilledError):
        invert(
            pipeline,
            pictures[:2],
            settings,
            checkpoint=path,
            callback_on_step_end=kill_at(killed_at),
        )
    with spoiled(pipeline, set()) as calls:
        resumed = invert(pipeline, pictures[:2], settings, checkpoint=path)
    assert calls == left
    for name in FIELDS:
        assert torch.equal(whole[name], resumed[name]), name
    assert whole.unet_evaluations == resumed.unet_evaluations


@pytest.mark.parametrize("over", ["hidden_states", "token_vectors", "tokens"])
@pytest.mark.parametrize("steps", [1, 2, 3])
def test_an_inversion_may_end_at_a_measurement_or_before_it(pipeline, pictures, over, steps):
    settings = replace(SETTINGS, evaluate_every=2, max_rollbacks=steps - 1)
    with spoiled(pipeline, set(range(8))):
        found = invert(pipeline, pictures[0], settings, over=over)
    (history,) = found.histories
    assert len(history.training) == history.rollbacks == steps
    assert found.steps == [0] and history.evaluated == ([0] if steps < 3 else [0, 2])


@pytest.mark.slow
def test_a_step_that_is_far_too_large_returns_to_the_best(pipeline, pictures):
    settings = replace(SETTINGS, steps=40, learning_rate=30.0, patience=2, max_rollbacks=20)
    found = invert(pipeline, pictures[0], settings)
    history = found.histories[0]
    assert history.rollbacks >= 1
    assert found.log_likelihood[0] == max(history.held_out) >= history.held_out[0]


def test_a_picture_without_progress_stops_and_the_others_go_on(pipeline, pictures):
    settings = replace(SETTINGS, patience=2, max_rollbacks=0)
    objective, vectors = problem(pipeline, pictures[:2], settings)
    state = State.start(vectors)
    state.best_bound[0] = 1e3

    def progress(state: State) -> None:
        state.best_bound[1] = -1e3

    maximize(objective, state, settings, progress)
    assert state.active.tolist() == [False, True]
    assert state.evaluations.tolist() == [2 * 4 + 2 * 8, 8 * 4 + 5 * 8]


def test_gradients_are_clipped_to_their_usual_size():
    state, rows, moving = (
        State.start(torch.ones(1, 77, 16)),
        torch.tensor([0]),
        torch.tensor([True]),
    )
    usual = torch.ones_like(state.vectors)
    adam_step(state, rows, moving, usual, SETTINGS)
    before = state.momentum.clone()
    adam_step(state, rows, moving, 1e6 * usual, SETTINGS)
    added = state.momentum - 0.9 * before
    torch.testing.assert_close(added, 0.1 * SETTINGS.clip * usual, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(("step", "share"), [(0, 1.0), (2, 0.75), (7, 0.125)])
def test_the_learning_rate_falls_linearly(step, share):
    vectors = torch.full((1, 77, 16), 3.0)
    state = State.start(vectors)
    state.step = step
    adam_step(state, torch.tensor([0]), torch.tensor([True]), torch.ones_like(vectors), SETTINGS)
    torch.testing.assert_close(state.vectors, vectors - share * SETTINGS.learning_rate * 3.0)


def test_the_average_follows_the_vectors(pipeline, pictures):
    found = invert(pipeline, pictures[0], replace(SETTINGS, average=0.99))
    free = invert(pipeline, pictures[0])
    start = pipeline.model.encode_prompts(["a room"]).tensors["prompt_embeds"][0]
    near, far = ((f.prompt_embeds[0] - start).norm() for f in (found, free))
    assert 0 < near < 0.5 * far


@pytest.mark.slow
def test_checkpointed_activations_and_sliced_attention_give_the_same(
    pipeline, own_pipeline, folder, pictures
):
    plain = invert(pipeline, pictures[0])
    own_pipeline.model.denoiser.enable_gradient_checkpointing()
    torch.testing.assert_close(invert(own_pipeline, pictures[0]).prompt_embeds, plain.prompt_embeds)
    sliced = PromptInversionPipeline.from_pretrained(folder)
    sliced.text_to_image.enable_attention_slicing(1)
    torch.testing.assert_close(
        invert(sliced, pictures[0]).prompt_embeds, plain.prompt_embeds, rtol=1e-3, atol=1e-3
    )


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_networks_keep_a_float32_embedding(folder, pictures, dtype):
    half = PromptInversionPipeline.from_pretrained(folder, dtype=dtype)
    found = invert(half, pictures[0], replace(SETTINGS, steps=20))
    assert found.prompt_embeds.dtype == torch.float32
    assert found.log_likelihood[0] > found.histories[0].held_out[0]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"start": ""}, "a prompt must have words, got ''"),
        ({"start": "red " * 100}, "a prompt has at most 77 tokens"),
        ({"start": ["a room"] * 2}, "start must be one, or one for each of 3 images, got 2"),
        ({"start": "caption"}, "start 'caption' needs a captioner, got none"),
        ({"seeds": [1, 2]}, "seeds must be one, or one for each of 3 images, got 2"),
        ({"over": "words"}, "over must be one of .* got 'words'"),
        ({"size": (15, 16)}, "size must be multiples of 2 pixels, got 15 x 16"),
        ({"size": (100000, 100000)}, "size must have at most .* pixels, got 100000 x 100000"),
        ({"guidance_scale": nan}, "guidance_scale must be finite and at least 0, got nan"),
        (
            {"settings": replace(SETTINGS, timestep_range=(40, 60))},
            "timestep_range must lie within 0 and 50, got 40 to 60",
        ),
    ],
)
def test_bad_arguments_are_named_before_a_step(pipeline, pictures, options, message):
    with spoiled(pipeline, set()) as calls, pytest.raises(ValueError, match=message):
        invert(pipeline, pictures, **options)
    assert not calls


def test_starts_of_unequal_length_cannot_share_a_batch_of_token_vectors(pipeline, pictures):
    with pytest.raises(ValueError, match="equally many tokens for all images, got"):
        invert(pipeline, pictures[:2], start=["a room", "a big red room"], over="token_vectors")
