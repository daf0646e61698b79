from itertools import product

import pytest
import torch

from invcap.diffusion.conditioning import Conditioning
from invcap.phrases import Phrases
from invcap.prompt_inversion import words
from invcap.prompt_inversion.search import SearchSettings, search
from invcap.prompt_inversion.words import Contest

COLOURS, SHAPES, PLACES = ("red", "blue", "green"), ("star", "ring", "heart"), ("left", "right")
EVERY = [f"a {c} {s} on the {p} side" for c, s, p in product(COLOURS, SHAPES, PLACES)]
TRUE = "a green heart on the right side"
BANK = [sentence for sentence in EVERY if sentence != TRUE]


@pytest.fixture
def measured(pipeline, monkeypatch):
    """Prompts are the likelier the more of their words are true; what was measured is listed."""
    done = []

    def encode(prompts):
        right = [len(set(p.split()) & set(TRUE.split())) - 0.1 * len(p.split()) for p in prompts]
        return Conditioning(
            {"right": torch.tensor(right).double(), "number": torch.arange(len(prompts))}
        )

    def terms(model, latents, conditioning, samples):
        noise = samples.noise.flatten(2).mean(2).double()
        done.append((conditioning.tensors["right"], samples.noise[:, :, 0, 0, 0]))
        return conditioning.tensors["right"][:, None] + 0.01 * noise

    monkeypatch.setattr(pipeline.model, "encode_prompts", encode)
    monkeypatch.setattr(words, "bound_terms", terms)
    return done


@pytest.fixture
def latents(pipeline, pictures):
    return pipeline.model.encode_images(pictures)[0]


def test_a_search_finds_a_prompt_that_is_no_sentence_of_the_bank(pipeline, latents, measured):
    found = search(pipeline.model, latents, BANK[:1], [], Phrases(BANK), SearchSettings())
    assert BANK[0].split()[1:3] == ["red", "star"] and found.prompts[0] == TRUE
    assert found.evaluations == sum(noise.numel() for _, noise in measured)


@pytest.mark.parametrize(
    ("needed", "crossed", "found"),
    [
        ({"green", "heart"}, 1, True),
        ({"green", "heart", "right"}, 1, False),
        ({"green", "heart", "right"}, 16, True),
    ],
)
def test_parts_that_help_only_together_are_found_as_pairs_or_in_other_sentences(
    pipeline, latents, monkeypatch, needed, crossed, found
):
    def value(prompt: str) -> float:
        there = len(needed & {*prompt.split()})
        return 1.0 if there == len(needed) else 0.2 if there else 0.5

    def encode(prompts):
        return Conditioning({"right": torch.tensor([value(p) for p in prompts]).double()})

    def terms(model, latents, conditioning, samples):
        return conditioning.tensors["right"][:, None].expand(-1, samples.steps.shape[1])

    monkeypatch.setattr(pipeline.model, "encode_prompts", encode)
    monkeypatch.setattr(words, "bound_terms", terms)
    bank = [sentence for sentence in EVERY if value(sentence) < 1]
    settings = SearchSettings(crossed=crossed)
    best = search(pipeline.model, latents, bank, [], Phrases(bank), settings).prompts[0]
    assert (value(best) == 1) == found


@pytest.mark.parametrize("budget", [1, 30, 60, 200])
def test_the_budget_is_never_exceeded(pipeline, latents, measured, budget):
    settings = SearchSettings(budget=budget)
    found = search(pipeline.model, latents, BANK, ["a green heart"], Phrases(BANK), settings)
    assert found.evaluations == sum(noise.numel() for _, noise in measured) <= budget
    assert found.prompts[0] in EVERY


def test_a_clause_wins_where_it_is_likelier_than_the_sentences(pipeline, latents, measured):
    sentences = ["a dim blue star over a wide field"]
    parts = ["a green heart"]
    found = search(pipeline.model, latents, sentences, parts, Phrases(sentences), SearchSettings())
    assert found.prompts == ["a green heart"]


def test_no_prompt_is_measured_twice_on_one_sample(pipeline, latents, measured):
    contest = Contest(pipeline.model, latents, 16, torch.Generator().manual_seed(0))
    assert contest.halve(EVERY)[0] == TRUE
    before = contest.evaluations
    assert before == 18 * 2 + 9 * 2 + 5 * 4 + 3 * 8
    assert contest.halve(EVERY)[0] == TRUE and contest.evaluations == before
    bounds = contest.log_likelihood([TRUE])
    assert bounds.terms.shape == (1, 16)
    assert sorted(contest.order.tolist()) == list(range(16))


def test_finalists_are_measured_on_all_samples(pipeline, latents, measured):
    contest = Contest(pipeline.model, latents, 16, torch.Generator().manual_seed(0))
    best = contest.halve(EVERY, finalists=7)
    assert [len(contest.terms[prompt]) for prompt in best[:7]] == [16] * 7


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"budget": 0}, "budget must be at least 1, got 0"),
        ({"draws": 12}, "draws must be a multiple of 8, got 12"),
        ({"least_noise": 1.0}, "least_noise must be from 0 to below 1, got 1.0"),
    ],
)
def test_settings_that_cannot_be_used_are_refused(wrong, message):
    with pytest.raises(ValueError, match=message):
        SearchSettings(**wrong)
