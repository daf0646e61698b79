from dataclasses import replace

import torch

from invcap.captioning.report import best_drawn


def test_a_report_opens_with_the_images_that_are_drawn_best(captioner, pairs):
    x = captioner.network.inverse(captioner.embedding_scaler(pairs.embeddings))
    noise = torch.randn(x.shape, generator=torch.Generator().manual_seed(0))
    scale = torch.full((len(x), 1), 10.0)
    right = [3, 5, 17, 20]
    scale[right] = torch.tensor([0.0, 0.1, 0.2, 0.3])[:, None]
    latents = captioner.latent_scaler.inverse(x + scale * x.std() * noise)
    held_out = replace(pairs, latents=latents)
    assert best_drawn(captioner, held_out, 4) == right
    caption = held_out.caption.clone()
    caption[5] = caption[3]
    assert best_drawn(captioner, replace(held_out, caption=caption), 3) == [3, 17, 20]
