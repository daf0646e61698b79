import torch

from invcap.captioning.scaler import Scaler


def some_rows() -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(50, 6, generator=generator) @ torch.randn(6, 6, generator=generator) + 3


def test_standardized_rows_have_mean_zero_and_deviation_one_and_go_back():
    rows = some_rows()
    scaler = Scaler.of(rows)
    scaled = scaler(rows)
    torch.testing.assert_close(scaled.mean(0), torch.zeros(6), atol=1e-5, rtol=0)
    torch.testing.assert_close(scaled.std(0, correction=0), torch.ones(6))
    torch.testing.assert_close(scaler.inverse(scaled), rows)


def test_principal_components_are_those_of_the_singular_values_over_one_deviation():
    rows = some_rows()
    scaler = Scaler.principal(rows, 2)
    centred = rows - rows.mean(0)
    _, values, vectors = torch.linalg.svd(centred, full_matrices=False)
    scaled = scaler(rows)
    expected = (centred @ vectors[:2].T).abs() / (values[:2].square().sum() / 2 / 50).sqrt()
    torch.testing.assert_close(scaled.abs(), expected, rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(scaled.square().mean(), torch.tensor(1.0))
    torch.testing.assert_close(scaler(scaler.inverse(scaled)), scaled)
