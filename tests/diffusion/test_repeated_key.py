import pytest
import torch
from tiny_pipelines import stable_diffusion_3
from torch.nn.functional import scaled_dot_product_attention as attention

from invcap.diffusion.families import frozen
from invcap.diffusion.repeated_key import RepeatedLastKey


def repeated(tensor: torch.Tensor, times: int) -> torch.Tensor:
    return torch.cat([tensor, tensor[..., -1:, :].expand(*tensor.shape[:-2], times - 1, -1)], -2)


def test_the_last_key_counts_as_many_and_other_attention_is_left_alone():
    torch.manual_seed(0)
    query, key, value = torch.randn(3, 2, 4, 5, 8)
    with RepeatedLastKey(7, keys=5):
        found = attention(query, key, value)
        other = attention(query, key[..., :4, :], value[..., :4, :])
    torch.testing.assert_close(found, attention(query, repeated(key, 7), repeated(value, 7)))
    assert torch.equal(other, attention(query, key[..., :4, :], value[..., :4, :]))


@pytest.mark.parametrize("changed", [False, True])
def test_without_t5_its_zeros_are_computed_once_unless_they_were_changed(changed):
    model = frozen(stable_diffusion_3(t5=False))
    conditioning = model.encode_prompts(["a red square", "a room"])
    hidden = conditioning.tensors["prompt_embeds"]
    if changed:
        hidden[:, -1] = 1
    seen = []
    model.denoiser.context_embedder.register_forward_hook(
        lambda module, inputs, output: seen.append(output.shape[1])
    )
    noisy, sigma = torch.randn(2, 4, 8, 8), torch.tensor([0.3, 0.8])
    hidden.requires_grad_()
    found = model.predict_velocity(noisy, sigma, conditioning)
    every = model.denoiser(
        hidden_states=noisy,
        timestep=1000 * sigma,
        encoder_hidden_states=hidden,
        pooled_projections=conditioning.tensors["pooled_prompt_embeds"],
    ).sample
    assert seen == [77 + (256 if changed else 1), 77 + 256]
    torch.testing.assert_close(found, every, rtol=0, atol=1e-5)
    gradients = [torch.autograd.grad(one.square().sum(), hidden)[0] for one in (found, every)]
    assert gradients[1][:, 77:].any()
    torch.testing.assert_close(*gradients, rtol=1e-3, atol=1e-6)


def test_gradients_are_the_same_where_layers_are_recomputed():
    model = frozen(stable_diffusion_3(t5=False))
    conditioning = model.encode_prompts(["a red square"])
    hidden = conditioning.tensors["prompt_embeds"].requires_grad_()
    noisy, sigma = torch.randn(1, 4, 8, 8), torch.tensor([0.3])

    def gradient() -> torch.Tensor:
        velocity = model.predict_velocity(noisy, sigma, conditioning)
        return torch.autograd.grad(velocity.square().sum(), hidden)[0]

    kept = gradient()
    assert kept.abs().max() > 1e-3
    model.denoiser.enable_gradient_checkpointing()
    torch.testing.assert_close(gradient(), kept, rtol=1e-3, atol=1e-6)
