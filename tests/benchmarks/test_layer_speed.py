import pytest
import torch

# Compiles the dense product, and measures memory in processes.
pytestmark = [pytest.mark.slow, pytest.mark.long]


@pytest.fixture(scope="module")
def speed(script):
    speed = script("layer_speed")
    with pytest.MonkeyPatch.context() as patch:
        for name, value in {
            "SIZES": (1024,),
            "BATCHES": (256,),
            "HALVES": ((64, 8),),
            "NETWORKS": ((16, 8),),
            "PEER_SIZES": (16,),
            "PEER_BATCHES": (8,),
            "GROWN": {"n": (8, 16), "batch": (1, 4), "depth": (1, 2)},
            "SECONDS": 0.01,
        }.items():
            patch.setattr(speed, name, value)
        yield speed


@pytest.fixture(scope="module")
def results(speed):
    ballast = torch.ones(2**28)  # of which no measured process may know
    results = speed.measure()
    assert ballast.numel()
    return results


def test_all_is_measured_and_shown(speed, results, tmp_path):
    ratios = results["cells"]["1024, 256"]
    assert {"forward", "inverse", "step", "forward over limit"} <= ratios.keys()
    assert all(value > 0 for value in ratios.values())
    assert set(results["network"]["16, 8"]) == {"store", "recompute"}
    assert all(len(found) == 5 for found in results["peers"].values())
    # The first cells' rounding, in units of a dense layer's and of solve_triangular's.
    errors = results["errors"]["1024"]
    assert 0.1 < errors["forward"] < 2 and 0.1 < errors["inverse"] < 2
    assert set(results["slopes"]) == {"n", "batch", "depth"}
    text = speed.table(results)
    assert "| 1024 | 256 |" in text and "| 64 | 8 |" in text and "zuko" in text
    speed.plot(results).savefig(tmp_path / "ratios.png")


def test_the_limit_is_a_dense_product(speed):
    x, weight = torch.randn(37, 100), torch.randn(100, 100)
    torch.testing.assert_close(speed.limit()(x, weight), x @ weight.T, rtol=1e-4, atol=1e-4)


def test_recomputing_takes_less_memory_than_storing_whatever_this_process_takes(results):
    assert 0 < results["memory"]["recompute"] < 0.5 * results["memory"]["store"]
