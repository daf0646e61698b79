import logging

import pytest

from invcap.prompt_inversion.bank import make_bank

SENTENCES = ["a red square, black background", "a green circle", "a room", "a green  circle"]


def test_the_nearest_sentence_to_a_prompt_is_itself_and_so_are_clauses(pipeline, tmp_path):
    bank = make_bank(pipeline.model, SENTENCES, tmp_path)
    assert bank.sentences == ["a red square, black background", "a green circle", "a room"]
    for sentence in bank.sentences:
        hidden = pipeline.model.encode_prompts([sentence]).tensors["prompt_embeds"][0]
        sentences, parts = bank.nearest(3 * hidden, 2)
        assert sentences[0] == sentence and len(sentences) == 2
        assert set(parts) == {"a red square", "black background"}
    hidden = pipeline.model.encode_prompts(["black background"]).tensors["prompt_embeds"][0]
    assert bank.nearest(hidden, 1)[1] == ["black background"]


def test_a_bank_is_encoded_once_for_a_model(own_pipeline, tmp_path, monkeypatch):
    model = own_pipeline.model
    first = make_bank(model, SENTENCES, tmp_path)
    encode, encoded = model.encode_prompts, []
    monkeypatch.setattr(model, "encode_prompts", lambda p: encoded.extend(p) or encode(p))
    again = make_bank(model, SENTENCES, tmp_path)
    assert again.identity == first.identity and not encoded
    make_bank(model, SENTENCES[1:], tmp_path)
    assert encoded == ["a green circle", "a room"]
    encoded.clear()
    model.pipeline.text_encoder.get_input_embeddings().weight.data.mul_(2)
    model.to(model.device)  # forgets what it knew of itself
    make_bank(model, SENTENCES[1:], tmp_path)
    assert set(encoded) == {"a picture", "a green circle", "a room"}


def test_what_a_model_cannot_read_is_left_out(pipeline, tmp_path, caplog):
    with caplog.at_level(logging.WARNING):
        bank = make_bank(pipeline.model, ["", "red " * 100, "a room"], tmp_path)
    assert bank.sentences == ["a room"] and "skipped 2 sentences" in caplog.text
    with pytest.raises(ValueError, match="sentences: expected some that the model can read, got 2"):
        make_bank(pipeline.model, ["", "red " * 100], tmp_path)
