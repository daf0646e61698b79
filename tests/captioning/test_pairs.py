import numpy as np
import pytest
import torch

from invcap.captioning.pairs import encode_pairs
from invcap.data import Example
from invcap.data.shapes import draw


@pytest.fixture
def examples(some_scenes):
    return [
        Example(str(i), captions, str(i), lambda: None)
        for i, captions in enumerate([("one", "two"), ("three",), ("two", "four")])
    ], np.stack([np.asarray(draw(scene)) for scene in some_scenes[:3]])


def test_a_caption_of_two_pictures_is_embedded_once(examples, pictures, sentences, tmp_path):
    pairs = encode_pairs(*examples, pictures, sentences, tmp_path)
    assert pairs.captions == ["one", "two", "three", "four"]
    assert list(zip(pairs.picture.tolist(), pairs.caption.tolist(), strict=True)) == [
        (0, 0), (0, 1), (1, 2), (2, 1), (2, 3)
    ]  # fmt: skip
    torch.testing.assert_close(pairs.embeddings, sentences.encode(pairs.captions))


def test_a_subset_keeps_only_its_own_pairs(examples, pictures, sentences, tmp_path):
    pairs = encode_pairs(*examples, pictures, sentences, tmp_path)
    subset = pairs.subset([2, 1])
    assert subset.names == ["2", "1"]
    assert torch.equal(subset.latents, pairs.latents[[2, 1]])
    said = {
        (subset.names[p], subset.captions[c])
        for p, c in zip(subset.picture.tolist(), subset.caption.tolist(), strict=True)
    }
    assert said == {("2", "two"), ("2", "four"), ("1", "three")}
    assert subset.picture.tolist() == sorted(subset.picture.tolist())


def test_the_cache_is_used_and_a_broken_one_is_computed_again(
    examples, pictures, sentences, tmp_path, monkeypatch
):
    first = encode_pairs(*examples, pictures, sentences, tmp_path)
    calls = []
    real = type(pictures).encode
    monkeypatch.setattr(
        type(pictures), "encode", lambda self, pixels: calls.append(1) or real(self, pixels)
    )
    encode_pairs(*examples, pictures, sentences, tmp_path)
    assert not calls
    (broken,) = tmp_path.glob("latents-*")
    broken.write_bytes(b"broken")
    again = encode_pairs(*examples, pictures, sentences, tmp_path)
    assert calls and torch.equal(again.latents, first.latents)


def test_other_pictures_are_not_found_in_the_cache(examples, pictures, sentences, tmp_path):
    first = encode_pairs(*examples, pictures, sentences, tmp_path)
    second = encode_pairs(examples[0], 255 - examples[1], pictures, sentences, tmp_path)
    assert not torch.allclose(first.latents, second.latents)
