"""The comparison of densities: every method is one, and a fit keeps its best weights."""

import json
from dataclasses import replace

import pytest
import torch


@pytest.fixture
def density(script):
    return script("density")


def test_every_method_scores_what_its_inverse_draws(script):
    module = script("density_methods")
    for label, method in module.TOYS.items():
        torch.manual_seed(0)
        density = method.make(torch.randn(50, 2)).double().eval()
        noise = 0.5 * torch.randn(1, 2, dtype=torch.float64)
        x = density.inverse(noise).detach()
        jacobian = torch.autograd.functional.jacobian(density.inverse, noise)[0, :, 0]
        want = module.log_normal(noise) - torch.linalg.slogdet(jacobian)[1]
        got = density.log_prob(x)
        torch.testing.assert_close(got, want, rtol=1e-4, atol=1e-3, msg=label)


@pytest.mark.slow
def test_a_fit_improves_the_likelihood_and_is_written_as_a_table(density, tmp_path, monkeypatch):
    methods = {"network": density.TOYS["flow_network, depth 16"]}
    monkeypatch.setattr(density, "SAMPLES", 10)

    def small() -> density.Data:
        whole = density.toy(density.moons)
        return replace(whole, train=whole.train[:1000], methods=methods, epochs=3)

    torch.manual_seed(0)
    untrained = methods["network"].make(small().train)
    before = density.log_likelihoods(untrained, small().test).mean()
    monkeypatch.setattr(density, "DATA", {"two moons": small})
    density.main(tmp_path, ["two moons"])
    outcome = json.loads((tmp_path / "results.json").read_text())["two moons"]["network"]
    assert outcome["log_likelihood"] > before + 0.1
    assert f"{outcome['log_likelihood']:.3f}" in (tmp_path / "table.md").read_text()


def test_digits_are_scored_per_unit_of_the_pixels_as_they_are(density):
    torch.manual_seed(0)
    data = density.digits()
    rows = data.noisy(data.train)
    assert rows.std(0).mean().item() == pytest.approx(1, abs=0.05)
    assert (len(data.validation), len(data.test)) == (1000, 1388)
    deviation = (data.train / 17).std(0)
    # Noise is all that never-inked pixels have.
    want = -(deviation.square() + 1 / 12 / 17**2).log().sum().item() / 2
    assert data.log_volume == pytest.approx(want, rel=0.01)
