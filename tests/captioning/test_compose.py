import pytest


@pytest.mark.slow
def test_composed_sentences_are_at_least_as_near_as_the_candidates(captioner, images):
    composed = captioner.compose(images[:3], 5, near=8)
    known = captioner.caption(images[:3], 5)
    for ours, theirs in zip(composed, known, strict=True):
        assert len(ours) == 5 and len({caption.text for caption in ours}) == 5
        assert all(a.score >= b.score - 1e-4 for a, b in zip(ours, theirs, strict=True))
    assert {c.text for found in composed for c in found} - set(captioner.candidates)


def test_a_sentence_that_is_no_candidate_is_composed_of_those_that_are(captioner):
    sentence, here = "a small red star", captioner.sentence_encoder.encode(["a small red star"])
    captioner.embed = lambda images: captioner.embedding_scaler(here)
    captioner.set_candidates(["a large red star", "a small blue star", "a small red ring"])
    (found,) = captioner.compose([None], near=3)
    assert found[0].text == sentence
    assert found[0].score == pytest.approx(1.0, abs=1e-4)
