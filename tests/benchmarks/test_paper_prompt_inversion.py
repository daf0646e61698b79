"""The reproduction of the prompt inversion paper, on random weights and at a tiny size."""

import json

import pytest
import torch
import typer

from invcap.diffusion.noise_samples import draw_samples


@pytest.fixture(scope="module")
def paper(script):
    return script("paper_prompt_inversion")


@pytest.mark.slow
def test_the_papers_loop_climbs_from_the_start_that_ours_has(paper, pipeline):
    bounds = paper.papers_bounds(pipeline, range(2), [0.03, 0.0], 20, 10)
    assert bounds.shape == (3, 2)
    assert bounds[-1, 0] > bounds[0, 0]
    assert torch.equal(bounds[:, 1], bounds[0, 1].expand(3))
    ours = pipeline.invert([paper.drawing(paper.TARGET)] * 2, paper.START, paper.steady(0))
    assert [h.held_out[0] for h in ours.histories] == pytest.approx(bounds[0].tolist())


def first_steps(paper, pipeline, optimizer, rates) -> list[torch.Tensor]:
    """By how much one step of the paper's loop moves the hidden states, for each rate."""

    class Seen(optimizer):
        def __init__(self, groups: list[dict]) -> None:
            super().__init__(groups)
            moved.extend(group["params"][0] for group in self.param_groups)

    moved = []
    paper.papers_bounds(pipeline, range(len(rates)), rates, 1, 1, Seen)
    start = pipeline.model.encode_prompts([paper.START]).tensors["prompt_embeds"]
    return [states.detach() - start for states in moved]


def test_the_papers_loop_is_the_optimizer_it_is_given(paper, pipeline):
    rates = [1e-3, 2e-3]
    moved = first_steps(paper, pipeline, torch.optim.Adam, rates)
    # Adam's first step is the learning rate itself.
    assert [step.abs().amax().item() for step in moved] == pytest.approx(rates, rel=1e-2)


def test_the_papers_loss_is_one_draws_distance_of_means(paper, pipeline):
    (moved,) = first_steps(paper, pipeline, torch.optim.SGD, [1.0])
    model, schedule = pipeline.model, pipeline.model.schedule
    latents = model.encode_images(paper.drawing(paper.TARGET))
    start = model.encode_prompts([paper.START]).tensors["prompt_embeds"]
    generator = torch.Generator().manual_seed(0)
    draw_samples(schedule, 64, tuple(latents.shape[1:]), generator)
    t = torch.randint(1, len(schedule), (1,), generator=generator).item()
    noise = torch.randn(latents.shape[1:], generator=generator)
    abar, before = schedule.alphas_cumprod[[t, t - 1]].tolist()
    alpha = abar / before
    noisy = abar**0.5 * latents + (1 - abar) ** 0.5 * noise
    start.requires_grad_()
    found = model.denoiser(noisy, t, start).sample
    means = [(noisy - (1 - alpha) / (1 - abar) ** 0.5 * e) / alpha**0.5 for e in (noise, found)]
    (gradient,) = torch.autograd.grad((means[0] - means[1]).square().sum(), start)
    torch.testing.assert_close(moved, -gradient, rtol=1e-2, atol=1e-3 * gradient.abs().max().item())


@pytest.mark.slow
def test_every_part_gives_its_figures(paper, pipeline, tmp_path):
    table = paper.table_1(pipeline, draws=4)
    assert list(table) == list(paper.TABLE_1)
    assert table[paper.TABLE_1[0]]["difference"] == (0.0, 0.0)
    rows = paper.comparisons(pipeline, count=1, draws=4)
    assert list(rows) == ["colour", "shape", "background"]
    for row in rows.values():
        assert row["right"] in (0.0, 0.5, 1.0) and row["right_by_two_errors"] <= row["right"]
    settings = paper.InversionSettings(steps=2, bank=8, held_out=4, snapshots=2)
    found = paper.pictures(pipeline, tmp_path, count=2, shown=1, settings=settings)
    assert found["settings"]["steps"] == 2
    assert all(share in (0.0, 0.5, 1.0) for share in found["drawn_right"].values())
    way = paper.figures_3_4(pipeline, tmp_path, steps=4)
    assert way["best"] >= way["start"]
    written = {path.name for path in tmp_path.iterdir()}
    assert written == {"figure_3.png", "figure_4.png", "pictures.png"}


@pytest.mark.slow
def test_a_run_that_ends_below_its_start_has_collapsed(paper, pipeline, tmp_path, monkeypatch):
    def bounds(*arguments):
        """Of one run that rises, one that falls, and one that ends without a number."""
        return torch.tensor([[0.0, 0.0, 0.0], [1.0, 1.0, 1.0], [0.5, -0.5, torch.nan]])

    monkeypatch.setattr(paper, "papers_bounds", bounds)
    found = paper.figure_5(pipeline, tmp_path, steps=2, seeds=3)
    assert found["paper"]["collapsed"] == 2 and found["ours"]["collapsed"] == 0
    assert found["paper"]["best"] == {"min": 1.0, "median": 1.0, "max": 1.0}
    assert found["paper"]["end"] == {"min": None, "median": None, "max": None}
    assert (tmp_path / "figure_5.png").exists()


def test_evaluations_are_counted_to_the_bound_of_the_best_paper_loop(paper, pipeline):
    settings = paper.InversionSettings(
        steps=8, draws=4, bank=32, held_out=64, evaluate_every=4, patience=None
    )
    found = paper.evaluations(pipeline, steps=5, seeds=1, rates=(1e-5, 1e-2), settings=settings)
    assert found["paper"]["learning_rate"] == 1e-2
    assert all(needed in (16, 32) for needed in found["ours"]["evaluations"])
    assert found["ours"]["share_of_the_papers"] == found["ours"]["median"] / 5


def test_parts_are_added_to_the_results_of_the_same_model_only(
    paper, pipeline, tmp_path, monkeypatch
):
    monkeypatch.setattr(paper.PromptInversionPipeline, "from_pretrained", lambda name: pipeline)
    made = iter(range(3))
    parts = {name: lambda: {"made": next(made)} for name in ("one", "two")}
    monkeypatch.setattr(paper, "parts", lambda pipeline, output: parts)
    path = tmp_path / "results.json"
    paper.main(tmp_path, None, ["one"])
    paper.main(tmp_path, None, ["two", "one"])
    results = json.loads(path.read_text())
    assert (results["one"]["made"], results["two"]["made"]) == (2, 1)
    with pytest.raises(typer.BadParameter, match="expected one of one, two, got three"):
        paper.main(tmp_path, None, ["three"])
    path.write_text(json.dumps(results | {"model": "another"}))
    with pytest.raises(ValueError, match=r"results\.json: has results of another model"):
        paper.main(tmp_path, None, ["one"])
