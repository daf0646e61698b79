import torch

from invcap.data.shapes import Scene, draw


def test_a_search_begins_with_its_prompt_and_finds_none_worse(script, pipeline):
    search_tokens = script("search_tokens").search_tokens
    picture = draw(Scene("large", "red", "square", "in the center", "black"))
    model = pipeline.model
    latents = model.encode_images(picture)[0]
    (alone,) = search_tokens(model, latents, "a red square", trials=1).prompts
    assert alone == "a red square"
    found = search_tokens(model, latents, "a red square", trials=12, choices=3, draws=16)
    assert "a red square" in found.prompts and found.evaluations == 16 * len(found.prompts)
    bounds = pipeline.log_likelihood(
        picture, found.prompts, 16, torch.Generator().manual_seed(0)
    ).bound
    torch.testing.assert_close(bounds, bounds.sort(descending=True).values)
