from math import log

import pytest

from invcap.phrases import Edit, Phrases, clauses, compositions, differences, edited

SENTENCES = [
    "a red star on the left",
    "a blue star on the left",
    "a blue ring at the top",
    "a dark blue ring at the top",
    "a red ring",
    "a blue ring",
]


def parts(here: str, there: str) -> set[tuple[str, str]]:
    """What is replaced by what."""
    words = here.split()
    return {
        (" ".join(words[start:end]), " ".join(part))
        for (start, end), part in differences(words, there.split())
    }


def test_phrases_are_replaced_whole_together_and_word_by_word():
    assert parts("a red star", "a red star") == set()
    assert parts("a star on the left", "a star in the top corner") == {
        ("on", "in"),
        ("left", "top corner"),
        ("on the left", "in the top corner"),
    }
    assert parts("a large red star", "a small blue star") == {
        ("large red", "small blue"),
        ("large", "small"),
        ("red", "blue"),
    }


def test_parts_are_inserted_one_at_a_time():
    found = list(compositions(["a red star on a dark field"], ["a blue star on a dark sky"]))
    assert found == ["a blue star on a dark field", "a red star on a dark sky"]


def test_clauses_are_separated_by_punctuation():
    assert clauses("a red star, on the left; dark") == ["a red star", "on the left", "dark"]
    assert clauses("a red star.") == clauses("a red star") == []


def test_phrases_between_two_words_come_most_frequent_first():
    phrases = Phrases(SENTENCES)
    assert phrases.between(("a",), ("ring",)) == [("blue",), ("red",), ("dark", "blue")]
    assert phrases.between(("star",), ("",)) == [("on", "the", "left")]
    assert ("a", "red") in phrases.between(("",), ("ring",))
    assert phrases.between(("left",), ("a",)) == []  # of two sentences
    assert phrases.between(("green",), ("ring",)) == []
    # Two words on each side: seen with those before, or with those after.
    assert phrases.between(("", "a"), ("ring", "at")) == [("blue",), ("dark", "blue"), ("red",)]
    assert phrases.between(("blue", "ring"), ("the", "left")) == [("at",)]
    assert phrases.between(("green", "ring"), ("the", "left")) == []
    assert phrases.between(("a",), ("blue",)) == [(), ("dark",)]


def edits_of(phrases: Phrases, sentence: str, most: int = 99) -> list[str]:
    """A sentence with each of its edits."""
    places = range(len(sentence.split()) + 1)
    every = [edit for start in places for edit in phrases.edits(sentence, start, most)]
    return [edited(sentence, [edit]) for edit in every]


def test_each_phrase_is_replaced_by_all_that_fit_between_its_neighbours():
    phrases = Phrases(SENTENCES)
    sentence = "a red star on the left"
    found = edits_of(phrases, sentence)
    assert "a blue star on the left" in found
    assert "a red ring at the left" not in found  # two steps: a ring, then where
    assert sentence not in found and len(found) == len(set(found))
    joined = Phrases([*SENTENCES, "a star on the left side", "a star in the top side"])
    assert "a star in the top side" in edits_of(joined, "a star on the left side")


def test_words_are_inserted_and_removed_and_short_edits_come_first():
    found = edits_of(Phrases(SENTENCES), "a blue ring")
    assert {"a dark blue ring", "a red ring"} <= set(found)
    assert "a blue ring" in edits_of(Phrases(SENTENCES), "a dark blue ring")
    assert edits_of(Phrases(["", "a"]), "a") == []  # a sentence keeps a word
    short = Phrases(["a ring", "a star", "a heart", "a heart"])
    assert edits_of(short, "a ring") == ["a heart", "a star"]
    assert edits_of(short, "a ring", 1) == ["a heart"]


def test_edits_that_do_not_overlap_are_made_together():
    edits = [Edit(1, 2, ("blue",)), Edit(3, 5, ()), Edit(2, 2, ("small",))]
    assert edited("a red star up there", edits) == "a blue small star"
    assert not edits[0].overlaps(edits[1]) and not edits[0].overlaps(edits[2])
    assert edits[0].overlaps(Edit(0, 2, ())) and edits[0].overlaps(Edit(1, 1, ("so",)))


def test_a_sentence_is_as_probable_as_its_words_one_after_the_other():
    phrases = Phrases(["a red ring", "a ring"])
    # 8 words with the edges, once between two sentences, of 4 kinds and one that is not known.
    a, ring, edge = ((count + 1 / 5) / 9 for count in (2, 2, 3))
    a_first = (2 + a) / 4
    ring_after_a = (1 + (1 + ring) / 3) / 3
    edge_after_ring = (1 + (1 + (2 + edge) / 3) / 2) / 2
    expected = log(a_first * ring_after_a * edge_after_ring)
    assert phrases.log_probability("a ring") == pytest.approx(expected)
    odd = phrases.log_probability("a ring a ring")
    assert phrases.log_probability("a blue ring") < phrases.log_probability("a red ring")
    assert odd < phrases.log_probability("a ring") - 2


def test_words_three_apart_count_together():
    phrases = Phrases(["in the top corner of it", "at the top of it", "in the center of it"])
    plain = phrases.log_probability("at the top of it")
    assert phrases.log_probability("in the top of it") < plain - 0.5
    assert phrases.log_probability("in the center of it") > plain - 0.5
