"""The reproduction of the prompt inversion paper, on random weights and at a tiny size."""

import pytest
import torch

from invcap.diffusion.noise_samples import draw_samples


@pytest.fixture(scope="module")
def paper(scripts):
    return scripts("paper_loop", "paper_prompt_inversion")


def run(paper, pipeline, rates, steps, optimizer=torch.optim.Adam, measure_every=1):
    latents, start = paper._problem(pipeline)
    latents = latents.expand(len(rates), -1, -1, -1)
    seeds = range(len(rates))
    return paper.paper_loop(
        pipeline, latents, start, seeds, optimizer, rates, steps, measure_every
    )[0]


def test_the_papers_loop_climbs_from_the_start_that_ours_has(paper, pipeline):
    bounds = run(paper, pipeline, [0.03, 0.0], 20, measure_every=10)
    assert bounds.shape == (3, 2)
    assert bounds[-1, 0] > bounds[0, 0]
    assert torch.equal(bounds[:, 1], bounds[0, 1].expand(3))
    ours = pipeline.invert([paper.draw(paper.TARGET)] * 2, paper.START, paper._steady(0))
    assert [h.held_out[0] for h in ours.histories] == pytest.approx(bounds[0].tolist())


def first_steps(paper, pipeline, optimizer, rates) -> list[torch.Tensor]:
    """By how much one step of the paper's loop moves the hidden states, for each rate."""

    class Seen(optimizer):
        def __init__(self, groups: list[dict]) -> None:
            super().__init__(groups)
            moved.extend(group["params"][0] for group in self.param_groups)

    moved = []
    run(paper, pipeline, rates, 1, Seen)
    start = paper._problem(pipeline)[1]
    return [states.detach() - start for states in moved]


def test_the_papers_loop_is_the_optimizer_it_is_given(paper, pipeline):
    rates = [1e-3, 2e-3]
    moved = first_steps(paper, pipeline, torch.optim.Adam, rates)
    # Adam's first step is the learning rate itself.
    assert [step.abs().amax().item() for step in moved] == pytest.approx(rates, rel=1e-2)


def test_the_papers_loss_is_one_draws_distance_of_means(paper, pipeline):
    (moved,) = first_steps(paper, pipeline, torch.optim.SGD, [1.0])
    latents, start = paper._problem(pipeline)
    generator = torch.Generator().manual_seed(0)
    draw_samples(pipeline.schedule, 64, tuple(latents.shape[1:]), generator)
    t = torch.randint(1, len(pipeline.schedule), (1,), generator=generator).item()
    noise = torch.randn(latents.shape[1:], generator=generator)
    abar, before = pipeline.schedule.alphas_cumprod[[t, t - 1]].tolist()
    alpha = abar / before
    noisy = abar**0.5 * latents + (1 - abar) ** 0.5 * noise
    start.requires_grad_()
    found = pipeline.unet(noisy, t, start[None]).sample
    means = [(noisy - (1 - alpha) / (1 - abar) ** 0.5 * e) / alpha**0.5 for e in (noise, found)]
    (gradient,) = torch.autograd.grad((means[0] - means[1]).square().sum(), start)
    torch.testing.assert_close(moved, -gradient, rtol=1e-2, atol=1e-3 * gradient.abs().max().item())


def test_every_part_gives_its_figures(paper, pipeline, tmp_path):
    table = paper.table_1(pipeline, draws=4)
    assert list(table) == list(paper.TABLE_1)
    assert table[paper.TABLE_1[0]]["difference"] == (0.0, 0.0)
    rows = paper.comparisons(pipeline, count=1, draws=4)
    assert list(rows) == ["colour", "shape", "background"]
    assert all(0 <= value <= 1 for row in rows.values() for value in row.values())
    settings = paper.InversionSettings(steps=2, bank=8, held_out=4, snapshots=2)
    found = paper.pictures(pipeline, tmp_path, count=2, shown=1, settings=settings)
    assert all(0 <= share <= 1 for share in found["drawn_right"].values())
    way = paper.figures_3_4(pipeline, tmp_path, steps=4)
    assert way["best"] >= way["start"]
    collapse = paper.figure_5(pipeline, tmp_path, steps=4, seeds=2)
    assert 0 <= collapse["ours"]["collapsed"] <= 2
    assert collapse["paper"]["start"] == pytest.approx(collapse["ours"]["start"])
    written = {path.name for path in tmp_path.iterdir()}
    assert written == {"figure_3.png", "figure_4.png", "figure_5.png", "pictures.png"}


def test_evaluations_are_counted_to_the_bound_of_the_best_paper_loop(paper, pipeline):
    settings = paper.InversionSettings(
        steps=8, draws=4, bank=32, held_out=64, evaluate_every=4, patience=None
    )
    found = paper.evaluations(pipeline, steps=5, seeds=1, rates=(1e-5, 1e-2), settings=settings)
    assert found["paper"]["learning_rate"] == 1e-2
    assert all(needed in (16, 32) for needed in found["ours"]["evaluations"])
    assert found["ours"]["share_of_the_papers"] == found["ours"]["median"] / 5


def test_only_parts_that_exist_are_run(paper, pipeline, tmp_path):
    assert list(paper.parts(pipeline, tmp_path)) == [
        "table_1",
        "comparisons",
        "pictures",
        "figures_3_4",
        "figure_5",
        "evaluations",
    ]
