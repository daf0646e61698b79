from pathlib import Path

import pytest
import torch
from tiny_blip import WORDS, save_blip

from invcap.phrases import clauses
from invcap.prompt_inversion.proposer import Proposer


@pytest.fixture(scope="module")
def blip(tmp_path_factory) -> Path:
    return save_blip(tmp_path_factory.mktemp("models") / "blip")


def test_beams_and_samples_are_captions_in_the_models_words(blip, pictures):
    beams = Proposer(str(blip), beams=4, max_new_tokens=6).captions(pictures[0])
    assert 1 < len(beams) == len(set(beams)) <= 4
    assert {word for text in beams for word in text.split()} <= {*WORDS}
    state = torch.random.get_rng_state()
    proposer = Proposer(str(blip), beams=4, samples=8, max_new_tokens=6, seed=1)
    both = proposer.captions(pictures[0])
    assert both[: len(beams)] == beams and len(both) > len(beams)
    assert proposer.captions(pictures[0]) == both
    assert torch.equal(torch.random.get_rng_state(), state)


def test_captions_come_before_compositions_of_their_parts(blip, pictures):
    proposer = Proposer(str(blip), beams=2, samples=6, max_new_tokens=6)
    said = proposer.captions(pictures[0])
    (found,) = proposer.compose(pictures[:1], 100)
    texts = [proposal.text for proposal in found]
    assert texts[: len(said)] == said and len(set(texts)) == len(texts) > len(said)
    assert {part for text in said for part in clauses(text)} <= set(texts)
    assert [p.text for p in proposer.compose(pictures[:1], 2)[0]] == said[:2]


def test_captions_begin_with_the_prompt_of_the_model(blip, pictures):
    said = Proposer(str(blip), "a red", beams=2, max_new_tokens=3).captions(pictures[0])
    assert all(text.startswith("a red") for text in said)


def test_a_name_that_is_no_model_is_refused_by_name(tmp_path):
    with pytest.raises(ValueError, match=r"proposer: .* is neither a folder nor an image-to-text"):
        Proposer(str(tmp_path))
    with pytest.raises(ValueError, match=r"beams and samples must not .* both 0, got 0 and 0"):
        Proposer(str(tmp_path), beams=0)
