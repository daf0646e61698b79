"""Nearest sentences, exactly and through an index."""

import pytest
import torch
from torch import Tensor

from invcap import InvertibleCaptioner
from invcap.captioning.nearest import NearestIndex, nearest
from invcap.captioning.scaler import Scaler

MANY, FEATURES, TOPICS = 20_000, 48, 400


@pytest.fixture(scope="module")
def bank() -> Tensor:
    """Embeddings about topics, as those of sentences are."""
    generator = torch.Generator().manual_seed(0)
    topics = torch.randn(TOPICS, FEATURES, generator=generator)
    about = torch.randint(TOPICS, (MANY,), generator=generator)
    return topics[about] + 0.5 * torch.randn(MANY, FEATURES, generator=generator)


def test_the_index_finds_what_the_exact_search_finds(bank):
    scaler = Scaler.of(bank)
    index = NearestIndex.build(bank, scaler)
    generator = torch.Generator().manual_seed(1)
    queries = scaler(bank[::40])
    queries = queries + 0.5 * torch.randn(queries.shape, generator=generator)
    exact, through = (search(queries, bank, scaler, 10) for search in (nearest, index.nearest))
    agree = exact[1][:, 0] == through[1][:, 0]
    assert agree.float().mean() >= 0.95
    torch.testing.assert_close(exact[0][agree, 0], through[0][agree, 0])
    assert (through[0].diff(dim=1) <= 0).all()


def test_more_neighbours_than_its_lists_hold_are_found_exactly(bank):
    scaler = Scaler.of(bank[:300])
    index = NearestIndex.build(bank[:300], scaler)
    queries = scaler(bank[300:302])
    for top_k in (200, 300):
        numbers = index.nearest(queries, bank[:300], scaler, top_k)[1]
        assert torch.equal(numbers, nearest(queries, bank[:300], scaler, top_k)[1])


def test_a_large_bank_is_searched_through_an_index_that_is_saved_with_it(
    captioner, images, tmp_path, monkeypatch
):
    exact = captioner.caption(images[:4], 2)
    monkeypatch.setattr("invcap.captioning.model.EXACT_UP_TO", 24)
    through = captioner.caption(images[:4], 2)
    assert captioner._index is not None
    assert [[c.text for c in one] for one in through] == [[c.text for c in one] for one in exact]
    captioner.save_pretrained(tmp_path)
    monkeypatch.setattr(NearestIndex, "build", None)
    loaded = InvertibleCaptioner.from_pretrained(tmp_path)
    assert [c.text for c in loaded.caption(images[0], 2)[0]] == [c.text for c in exact[0]]


def test_a_small_bank_is_searched_exactly(captioner, images, tmp_path, monkeypatch):
    monkeypatch.setattr(NearestIndex, "build", None)
    assert captioner.caption(images[0], 3)
    captioner.save_pretrained(tmp_path)
    assert not (tmp_path / "captions.faiss").exists()
