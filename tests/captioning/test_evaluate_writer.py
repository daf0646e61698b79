from dataclasses import replace

import pytest
import torch

from invcap.captioning.evaluate import evaluate
from invcap.captioning.evaluate_writer import bleu
from invcap.captioning.pairs import Pairs

FEW = 16


class Speaker(torch.nn.Module):
    """A writer of fixed sentences."""

    def __init__(self, texts):
        super().__init__()
        self.texts = texts

    def write(self, e, beams):
        return [[text] * beams for text in self.texts]


@pytest.fixture
def few(pairs) -> Pairs:
    """The first images, each with its caption."""
    names = ("names", "latents", "captions", "embeddings", "image", "caption", "pngs")
    return replace(pairs, **{name: getattr(pairs, name)[:FEW] for name in names})


def test_any_number_of_references_counts_and_one_that_agrees_is_enough():
    text, other = "a large red star at the top", "some other words entirely in here"
    assert bleu([text, text], [[text], [other, other, text]]) == pytest.approx(100)
    assert bleu([text, text], [[text], [other]]) < 70
    assert bleu([other], [[text]]) < 5


def test_sentences_of_the_images_own_are_like_them_and_not_new(captioner, few):
    captioner.writer = Speaker(few.captions)
    found = evaluate(captioner, few)["writer"]
    assert found["written"]["bleu"] == pytest.approx(100)
    assert found["written"]["similarity"] == pytest.approx(1, abs=1e-4)
    assert found["share_new"] == 0
    assert found["nearest"]["bleu"] < 90 and found["nearest"]["similarity"] < 0.9


def test_the_nearest_candidate_is_measured_as_the_written_sentence_is(captioner, few):
    embeddings = captioner.network(captioner.latent_scaler(few.latents))
    nearest = captioner.nearest_candidates(embeddings, 1)
    captioner.writer = Speaker([best.text for (best,) in nearest])
    found = evaluate(captioner, few)["writer"]
    assert found["written"] == pytest.approx(found["nearest"])


def test_new_sentences_are_counted_and_the_best_of_several_captions_taken(captioner, few):
    count = len(few.names)
    both = Pairs(
        **{
            **few.__dict__,
            "image": torch.arange(count).repeat_interleave(2),
            "caption": torch.stack([few.caption.roll(1), few.caption], 1).flatten(),
        }
    )
    texts = [text if row % 4 else f"{text}, so it seems" for row, text in enumerate(both.captions)]
    captioner.writer = Speaker(texts)
    found = evaluate(captioner, both)["writer"]
    assert found["share_new"] == 0.25
    assert 0.9 < found["written"]["similarity"] < 1
