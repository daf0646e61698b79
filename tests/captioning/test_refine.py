import pytest
import torch

from invcap.captioning.refine import STAY, refine


def caption(x: torch.Tensor) -> torch.Tensor:
    return torch.stack([x.prod(1), x[:, 0] - x[:, 1]], 1)


def test_captions_come_nearer_and_latents_stay_near():
    x = torch.tensor([[1.0, 0.5, 1.0], [0.2, 1.0, 1.0]])
    e = torch.tensor([[1.0, 0.0], [0.5, -0.5]])
    moved = refine(x, e, caption, 200)
    before, after = ((caption(some) - e).square().sum(1) for some in (x, moved))
    assert (after < 0.5 * before).all()
    # At the minimum the pull back is the gradient of the captions' error.
    moved.requires_grad_()
    (caption(moved) - e).square().sum().backward()
    torch.testing.assert_close(moved.grad, 2 * STAY * (x - moved.detach()), atol=2e-3, rtol=0)


def test_each_latent_is_refined_independently(monkeypatch):
    monkeypatch.setattr("invcap.captioning.refine.AT_ONCE", 2)
    x, e = torch.rand(5, 3), torch.rand(5, 2)
    alone = [refine(x[[row]], e[[row]], caption, 7) for row in range(5)]
    torch.testing.assert_close(refine(x, e, caption, 7), torch.cat(alone))
    assert torch.equal(refine(x, e, caption, 0), x)


def test_refined_drawings_are_captioned_nearer_to_their_sentence(captioner, pairs, monkeypatch):
    monkeypatch.setattr("invcap.captioning.refine.STAY", 0.0)  # untrained networks hardly move
    e = captioner.embedding_scaler(pairs.embeddings[:4])
    errors = []
    for steps in (0, None):
        drawn = captioner.draw(e, refine_steps=steps)
        seen = captioner.latent_scaler(captioner.image_encoder.encode(drawn))
        errors.append((captioner.network(seen) - e).square().mean().item())
    assert errors[1] < 0.9 * errors[0]


def test_steps_need_an_encoder_with_a_gradient(captioner, pairs):
    class Frozen:
        """An encoder that only decodes."""

        def decode(self, latents):
            return captioner_encoder.decode(latents)

    captioner_encoder, captioner.image_encoder = captioner.image_encoder, Frozen()
    e = captioner.embedding_scaler(pairs.embeddings[:1])
    assert captioner.draw(e).shape == (1, 32, 32, 3)
    with pytest.raises(ValueError, match="where the image encoder has a gradient, got 3"):
        captioner.draw(e, refine_steps=3)
