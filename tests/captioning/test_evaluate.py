import torch

from invcap.captioning.evaluate import evaluate, ranks
from invcap.captioning.pairs import Pairs


def with_perfect_latents(captioner, pairs: Pairs) -> Pairs:
    x = captioner.network.inverse(captioner.embedding_scaler(pairs.embeddings[pairs.caption]))
    return Pairs(**{**pairs.__dict__, "latents": captioner.latent_scaler.inverse(x)})


def test_a_perfect_captioner_gets_perfect_figures(captioner, pairs):
    metrics = evaluate(captioner, with_perfect_latents(captioner, pairs))
    for side, error in (("caption", "mse"), ("generation", "latent_mse")):
        assert metrics[side][error] < 1e-8
        assert metrics[side]["r_at_1"] == metrics[side]["r_at_10"] == 1
        assert metrics[side]["median_rank"] == 1
    assert metrics["round_trip"]["max_abs_error"] < 1e-4


def test_captions_of_other_images_get_the_figures_of_chance(captioner, pairs):
    perfect = with_perfect_latents(captioner, pairs)
    shuffled = Pairs(**{**perfect.__dict__, "caption": perfect.caption.roll(1)})
    metrics = evaluate(captioner, shuffled)
    assert metrics["caption"]["r_at_1"] == metrics["generation"]["r_at_1"] == 0
    assert metrics["caption"]["mse"] > 0.5


def test_the_errors_are_means_over_all_pairs(captioner, pairs):
    metrics = evaluate(captioner, pairs)
    x, e = captioner.latent_scaler(pairs.latents), captioner.embedding_scaler(pairs.embeddings)
    errors = [(captioner.network(x[i]) - e[i]).square().mean() for i in range(len(x))]
    torch.testing.assert_close(metrics["caption"]["mse"], torch.stack(errors).mean().item())


def test_any_caption_of_an_image_counts_as_a_hit(captioner, pairs):
    perfect = with_perfect_latents(captioner, pairs)
    count = len(perfect.names)
    both = Pairs(
        **{
            **perfect.__dict__,
            "image": torch.arange(count).repeat_interleave(2),
            "caption": torch.stack([perfect.caption, perfect.caption.roll(1)], 1).flatten(),
        }
    )
    metrics = evaluate(captioner, both)
    assert metrics["caption"]["r_at_1"] == metrics["generation"]["r_at_1"] == 1


def test_ranks_are_those_of_the_nearest_own_target():
    angles = torch.tensor([0.1, 0.4, -0.2, 3.0])
    targets = torch.stack([angles.cos(), angles.sin()], 1)
    queries = torch.tensor([[2.0, 0.0], [-0.3, -0.3]])
    query, target = torch.tensor([0, 0, 1]), torch.tensor([1, 2, 2])
    assert ranks(queries, targets, query, target).tolist() == [2, 2]


def test_an_image_is_redrawn_when_its_drawing_encoded_again_finds_it(captioner, pairs, monkeypatch):
    perfect = with_perfect_latents(captioner, pairs)
    monkeypatch.setattr(captioner.image_encoder, "decode", lambda latents: latents)
    monkeypatch.setattr(captioner.image_encoder, "encode", lambda latents: latents)
    assert evaluate(captioner, perfect)["generation"]["redrawn_r_at_10"] == 1
    monkeypatch.setattr(captioner.image_encoder, "encode", lambda latents: latents.roll(20, 0))
    assert evaluate(captioner, perfect)["generation"]["redrawn_r_at_10"] < 0.6
