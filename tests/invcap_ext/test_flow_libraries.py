"""The network inside zuko, Pyro, sbi, nflows and FrEIA; what docs/how-to/flows.md says, run."""

import re
import sys
from pathlib import Path

import pytest
import torch
import zuko
from layer_references import jacobian, randomize_, relative_error
from torch import Tensor, nn
from zuko.lazy import Flow, UnconditionalDistribution, UnconditionalTransform

from invcap_ext import InvertibleNetwork
from invcap_ext.lazy import ConditionalNetwork
from invcap_ext.transforms import InvertibleTransform

PAGE = (Path(__file__).parents[2] / "docs" / "how-to" / "flows.md").read_text()
BLOCKS = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
N, CONTEXT = 4, 3


def block(word: str) -> dict:
    """The names that the page's one block with this word defines."""
    (text,) = (text for text in BLOCKS if word in text)
    names: dict = {"__name__": "page"}
    exec(text, names)
    return names


def make_network() -> InvertibleNetwork:
    network = InvertibleNetwork(N, 3, negative_slope=0.4, scale=True, bandwidth=0.1)
    randomize_(network)
    nn.init.constant_(network.layers[0].log_scale, -0.3)
    return network


def make_conditional() -> ConditionalNetwork:
    torch.manual_seed(0)
    lazy = ConditionalNetwork(N, CONTEXT, depth=3)
    for parameter in [*lazy.network.parameters(), *lazy.conditioner[-1].parameters()]:
        nn.init.normal_(parameter, std=0.3)
    return lazy


def base() -> UnconditionalDistribution:
    normal = zuko.distributions.DiagNormal
    return UnconditionalDistribution(normal, torch.zeros(N), torch.ones(N), buffer=True)


def data(rows: int = 256) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(rows, N, generator=generator) @ torch.tensor(
        [[2.0, 1, 0, 0], [0, 1, 0.5, 0], [0, 0, 0.5, 1], [0, 0, 0, 0.2]]
    )


def fitted(module: nn.Module, loss, lr: float = 0.03) -> tuple[float, float]:
    optimizer = torch.optim.Adam(module.parameters(), lr)
    losses = []
    for _ in range(60):
        optimizer.zero_grad()
        value = loss()
        value.backward()
        optimizer.step()
        losses.append(value.item())
    return losses[0], losses[-1]


def test_the_first_example_of_the_page_runs_and_its_loss_falls() -> None:
    torch.manual_seed(0)
    names = block("samples = flow.sample")
    assert -names["loss"] > names["base"].log_prob(names["x"]).mean()
    assert names["samples"].shape == (1000, 64)


def test_the_example_for_zuko_runs() -> None:
    names = block("import zuko")
    samples = names["conditional"](torch.zeros(3)).sample((5,))
    assert samples.shape == (5, 16)
    assert len(list(names["flow"].parameters())) == len(list(names["network"].parameters()))


def test_a_zuko_flow_of_the_network_learns_and_samples_what_it_learned() -> None:
    flow = Flow(UnconditionalTransform(InvertibleTransform, make_network()), base())
    x = data()
    first, last = fitted(flow, lambda: -flow().log_prob(x).mean())
    assert last < first - 3
    y, log_prob = flow().rsample_and_log_prob((500,))
    torch.testing.assert_close(flow().log_prob(y), log_prob, rtol=1e-3, atol=1e-3)


def test_a_context_moves_every_row_by_itself_and_the_inverse_follows() -> None:
    transform = make_conditional()(data(6)[:, :CONTEXT])
    x = data(6)
    y = transform(x)
    for row in range(6):
        alone = make_conditional()(data(6)[row, :CONTEXT])
        assert relative_error(alone(x[row]), y[row]) < 1e-5
    assert relative_error(transform(x.flip(0)).flip(0), y) > 0.1
    assert relative_error(transform.inv(y), x) < 1e-5
    assert relative_error(transform.inv(transform(x.expand(2, 6, N))), x.expand(2, 6, N)) < 1e-5


def test_log_determinants_with_a_context_are_those_of_autograd_jacobians() -> None:
    lazy = make_conditional().double()
    c, x = data(6)[:, :CONTEXT].double(), data(6).double()
    for one in (lazy(c), lazy(c).inv):
        _, log_det = one.call_and_ladj(x)
        for row in range(6):
            alone = lazy(c[row])
            direction = alone if isinstance(one, InvertibleTransform) else alone.inv
            want = torch.linalg.slogdet(jacobian(direction, x[row]))[1]
            torch.testing.assert_close(log_det[row], want)


def test_a_new_conditional_network_is_the_network_without_context() -> None:
    lazy = ConditionalNetwork(N, CONTEXT, depth=2)
    x = data(6)
    assert torch.equal(lazy(x[:, :CONTEXT])(x), lazy.network(x))


def test_a_conditional_network_asks_for_a_context() -> None:
    with pytest.raises(ValueError, match="c must be a context"):
        make_conditional()()


def test_a_conditional_flow_learns_what_depends_on_the_context() -> None:
    torch.manual_seed(0)
    flow = Flow(ConditionalNetwork(N, CONTEXT, depth=3), base())

    def loss() -> Tensor:
        c = torch.randn(256, CONTEXT)
        return -flow(c).log_prob(0.1 * data() + c[:, :1]).mean()

    first, last = fitted(flow, loss, lr=0.005)
    assert last < first - 3
    here, there = torch.zeros(CONTEXT), torch.eye(CONTEXT)[0]
    near, far = flow(here).sample((500,)), flow(there).sample((500,))
    assert (far - near).mean(0) == pytest.approx(torch.ones(N), abs=0.2)


def test_without_zuko_the_import_says_what_to_install(monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "zuko.lazy", None)
    monkeypatch.delitem(sys.modules, "invcap_ext.lazy")
    with pytest.raises(ImportError, match=r"pip install 'invcap\[flows\]'"):
        import invcap_ext.lazy  # noqa: F401


def test_pyro_fits_the_network_to_data_and_samples_it() -> None:
    pyro = pytest.importorskip("pyro", reason="Pyro is not installed")
    pyro.clear_param_store()
    network, x = make_network(), data()

    def model() -> None:
        pyro.module("flow", network)
        normal = pyro.distributions.Normal(torch.zeros(N), 1.0).to_event(1)
        inverse = InvertibleTransform(network).inv
        with pyro.plate("rows", len(x)):
            flow = pyro.distributions.TransformedDistribution(normal, [inverse])
            pyro.sample("x", flow, obs=x)

    svi = pyro.infer.SVI(
        model, lambda: None, pyro.optim.Adam({"lr": 0.03}), pyro.infer.Trace_ELBO()
    )
    losses = [svi.step() / len(x) for _ in range(60)]
    assert losses[-1] < losses[0] - 3


def test_sbi_takes_a_conditional_flow_as_its_density_estimator(monkeypatch, tmp_path) -> None:
    sbi = pytest.importorskip("sbi.inference", reason="sbi is not installed")
    monkeypatch.chdir(tmp_path)  # sbi writes its logs there
    from sbi.neural_nets.estimators import ZukoFlow

    torch.manual_seed(0)

    def build(theta: Tensor, x: Tensor) -> ZukoFlow:
        flow = Flow(ConditionalNetwork(N, x.shape[1], depth=3), base())
        return ZukoFlow(flow, nn.Identity(), theta.shape[1:], x.shape[1:])

    prior = torch.distributions.MultivariateNormal(torch.zeros(N), torch.eye(N))
    theta = prior.sample((1000,))
    x = theta + 0.3 * torch.randn_like(theta)
    inference = sbi.NPE(prior, density_estimator=build, show_progress_bars=False)
    inference.append_simulations(theta, x)
    inference.train(training_batch_size=100, max_num_epochs=30, learning_rate=3e-3)
    posterior = inference.build_posterior()
    samples = posterior.sample((500,), x=torch.ones(1, N), show_progress_bars=False)
    # The true posterior: mean 1 / 1.09, standard deviation 0.29.
    assert samples.mean(0) == pytest.approx(torch.full((N,), 0.92), abs=0.15)
    assert samples.std(0) == pytest.approx(torch.full((N,), 0.29), abs=0.1)


def test_the_adapter_for_nflows_gives_both_directions_with_log_determinants() -> None:
    from nflows.distributions import StandardNormal
    from nflows.flows import Flow as NFlow

    transform = block("nflows")["NflowsTransform"](make_network())
    flow, x = NFlow(transform, StandardNormal([N])), data()
    y, log_det = transform.forward(x)
    back, back_log_det = transform.inverse(y)
    torch.testing.assert_close(back, x, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(back_log_det, -log_det)
    first, last = fitted(flow, lambda: -flow.log_prob(x).mean())
    assert last < first - 3
    assert flow.sample(10).shape == (10, N)


def test_the_adapter_for_freia_gives_both_directions_with_log_determinants() -> None:
    from FrEIA.framework import SequenceINN

    inn = SequenceINN(N)
    inn.append(block("FrEIA")["FreiaNetwork"], depth=3, negative_slope=0.4)
    for parameter in inn.parameters():
        nn.init.normal_(parameter, std=0.3)
    x = data()
    y, log_det = inn(x)
    back, back_log_det = inn(y, rev=True)
    torch.testing.assert_close(back, x, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(back_log_det, -log_det)
    want = torch.linalg.slogdet(jacobian(inn[0].network, x[0]))[1]
    torch.testing.assert_close(log_det[0], want, rtol=1e-4, atol=1e-4)
