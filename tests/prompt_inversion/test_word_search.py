from types import SimpleNamespace

import pytest

from invcap.prompt_inversion import InversionSettings
from invcap.prompt_inversion.bank import make_bank
from invcap.prompt_inversion.search import SearchSettings
from invcap.prompt_inversion.word_search import WordSearch

STILL = InversionSettings(steps=0, held_out=16, snapshots=0)


def proposer(*texts):
    """Proposes the same for every image."""
    said = [SimpleNamespace(text=text) for text in texts]
    return SimpleNamespace(compose=lambda images, top_k: [said[:top_k] for _ in images])


def test_proposals_are_ranked_without_a_bank(pipeline, pictures):
    words = WordSearch(proposer=proposer("red " * 100, "a red square"))
    start = pipeline.model.encode_prompts(["a room"])
    found = pipeline.invert(pictures[:1], start, STILL, words=words, num_inference_steps=1)
    assert found.prompts == ["a red square"] and found.prompt_evaluations == [16 * 8]
    assert found.unet_evaluations == [16 + 128 + 16]


def test_a_proposal_that_is_too_long_is_cut_where_there_is_no_other(pipeline, pictures):
    (latents,) = pipeline.model.encode_images(pictures[0])
    found = WordSearch().find(pipeline.model, latents, latents, ["red " * 100], [], seed=0)
    assert found.prompts == [" ".join(["red"] * 75)]


@pytest.mark.slow
def test_a_bank_is_searched_within_the_budget_and_from_any_start(pipeline, pictures, tmp_path):
    bank = make_bank(pipeline.model, ["a red square", "a green circle", "a red room"], tmp_path)
    words = WordSearch(bank, settings=SearchSettings(budget=100))
    start = pipeline.model.encode_prompts(["a room"])
    found = pipeline.invert(pictures, start, STILL, words=words, num_inference_steps=1)
    assert len(found.prompts) == 3 and all(0 < cost <= 100 for cost in found.prompt_evaluations)
    again = pipeline.invert(pictures, start, STILL, words=words, num_inference_steps=1)
    assert again.prompts == found.prompts
