"""What every family of models must do, on tiny pipelines of random weights."""

from types import SimpleNamespace

import diffusers
import literal_bounds as literal
import pytest
import torch
from kills import KilledError, kill_at
from PIL import Image
from random_pipeline import SIDE
from safetensors.torch import load_file
from tiny_pipelines import MAKERS, make

from invcap.diffusion.families import frozen, load_model
from invcap.diffusion.noise_samples import draw_samples
from invcap.prompt_inversion import InversionSettings, PromptInversionPipeline
from invcap.prompt_inversion.embeddings import load_conditioning, save_conditioning
from invcap.prompt_inversion.embeddings import save_token_vectors as save_vectors
from invcap.prompt_inversion.objective import Objective, bound_terms
from invcap.prompt_inversion.parametrization import parametrize

SIZE = (SIDE, SIDE)
PROMPT = "a red square"
WITHOUT_T5 = "StableDiffusion3 without T5"
SETTINGS = InversionSettings(
    steps=6, draws=2, bank=16, held_out=8, evaluate_every=3, snapshots=0, checkpoint_every=3
)


@pytest.fixture(scope="module", params=[*MAKERS])
def family(request, tmp_path_factory) -> SimpleNamespace:
    folder = tmp_path_factory.mktemp("models") / request.param
    make(request.param).save_pretrained(folder)
    return SimpleNamespace(name=request.param, folder=folder, model=load_model(folder))


@pytest.fixture(params=[*MAKERS, WITHOUT_T5])
def variant(request) -> SimpleNamespace:
    """A family, or Stable Diffusion 3 with zeros in place of T5's states."""
    name, options = request.param, {}
    if name == WITHOUT_T5:
        name, options = "StableDiffusion3", {"t5": False}
    return SimpleNamespace(name=name, model=frozen(make(name, **options)))


@pytest.fixture
def pipeline(family) -> PromptInversionPipeline:
    pipeline = PromptInversionPipeline(family.model)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


@pytest.fixture
def image() -> Image.Image:
    picture = Image.new("RGB", SIZE, "white")
    picture.paste("red", (4, 4, 12, 12))
    return picture


def plain(family: SimpleNamespace) -> diffusers.DiffusionPipeline:
    kind = family.model.pipelines[0]
    loaded = getattr(diffusers, kind).from_pretrained(family.folder, **family.model.load_options)
    loaded.set_progress_bar_config(disable=True)
    return loaded


def invert(pipeline, image, over="hidden_states", start="a green circle", **options):
    options = {"settings": SETTINGS, "size": SIZE, "num_inference_steps": 1} | options
    return pipeline.invert(image, start, over=over, **options)


def ways(model) -> list[str]:
    return ["hidden_states", "token_vectors"] + ["conditioning"] * (model.pooled is not None)


def test_the_bound_is_its_formula_written_out(variant, image):
    model, network = variant.model, literal.denoiser_of(variant.model.pipeline)
    latents, prompt = model.encode_images(image, SIZE), model.encode_prompts([PROMPT])
    generator = torch.Generator().manual_seed(0)
    samples = draw_samples(model.schedule, 6, tuple(latents.shape[1:]), generator)
    found = bound_terms(model, latents, prompt, samples.expand(1))[0]
    x0, y = latents[0].double(), {name: part.double() for name, part in prompt.tensors.items()}
    for term, at, e, importance in zip(
        found, samples.steps.tolist(), samples.noise, samples.importance, strict=True
    ):
        e = e.double()
        error = literal.error(variant.name, model.pipeline, network, x0, e, at, y)
        expected = literal.constant(variant.name, model.pipeline, x0) - importance * error
        assert term.item() == pytest.approx(expected.item() / x0.numel(), rel=1e-4)


def test_the_gradient_is_that_of_the_formula(variant, image):
    model, network = variant.model, literal.denoiser_of(variant.model.pipeline)
    latents, settings = (
        model.encode_images(image, SIZE),
        InversionSettings(bank=8, weighting="elbo"),
    )
    over = "hidden_states" if model.pooled is None else "conditioning"
    vectors, conditioning_of = parametrize(model, [PROMPT], over)
    objective = Objective(model, latents, conditioning_of, [0], settings)
    rows = torch.arange(1)
    found, _ = objective.gradient(vectors, rows, 0)

    _, samples, _ = objective.draw(rows, 0)
    exact = vectors.double().requires_grad_()
    y = conditioning_of(exact, rows).tensors
    terms = [
        importance
        * literal.error(
            variant.name, model.pipeline, network, latents[0].double(), e.double(), at, y
        )
        for at, e, importance in zip(
            samples.steps.tolist(), samples.noise, samples.importance, strict=True
        )
    ]
    (expected,) = torch.autograd.grad(torch.stack(terms).mean(), exact)
    assert found.abs().max() > 0
    ratio = found.double().norm() / expected.norm()  # steps are relative: any factor will do
    difference = (found - ratio * expected).abs().max() / found.abs().max()
    assert difference.item() < 2e-4
    assert torch.equal(samples.noise[1::2], -samples.noise[::2])


def test_words_and_their_vectors_are_one_prompt(family):
    model = family.model
    tokens = model.tokenize(PROMPT)
    assert model.read_tokens(torch.tensor([tokens])) == [PROMPT]
    assert {*model.tokenize(" a red room")} <= {*model.word_tokens}
    found = model.encode_tokens(model.token_table[tokens][None]).tensors
    expected = dict(model.encode_prompts([PROMPT]).tensors)
    if family.name == "StableDiffusion3":  # only CLIP reads vectors
        expected["prompt_embeds"] = expected["prompt_embeds"].clone()
        expected["prompt_embeds"][:, 77:] = 0
    if family.name == "Flux":  # only T5 does
        expected["pooled_prompt_embeds"] = model.neutral.tensors["pooled_prompt_embeds"]
    assert {name: tensor[0].shape for name, tensor in found.items()} == model.conditioning_shapes
    for name, tensor in expected.items():
        torch.testing.assert_close(found[name], tensor)


@pytest.mark.slow
def test_an_inversion_raises_the_held_out_bound(family, pipeline, image):
    for over in ways(family.model):
        found = invert(pipeline, image, over)
        (history,) = found.histories
        assert max(history.held_out) > history.held_out[0], over
        begun = family.model.encode_prompts(["a green circle"]).tensors
        changed = {name for name in begun if not torch.equal(found.conditioning[name], begun[name])}
        assert changed == ({"prompt_embeds"} if over == "hidden_states" else set(begun)), over


@pytest.mark.slow
def test_a_killed_inversion_resumes_to_the_same_numbers(family, pipeline, image, tmp_path):
    over = ways(family.model)[-1]
    whole = invert(pipeline, image, over)
    path = tmp_path / "checkpoint.safetensors"
    with pytest.raises(KilledError):
        invert(pipeline, image, over, checkpoint=path, callback_on_step_end=kill_at(5))
    steps: list[int] = []
    resumed = invert(
        pipeline,
        image,
        over,
        checkpoint=path,
        callback_on_step_end=lambda pipeline, step, tensors: steps.append(step),
    )
    assert steps == [4, 5, 6]
    assert resumed.histories == whole.histories
    for name, tensor in whole.conditioning.items():
        assert torch.equal(resumed.conditioning[name], tensor)
    assert resumed.images[0].tobytes() == whole.images[0].tobytes()


def test_plain_diffusers_draws_the_same_from_the_file(family, pipeline, image, tmp_path):
    found = invert(pipeline, image, num_inference_steps=2, seeds=5)
    path = tmp_path / "embedding.safetensors"
    conditioning = pipeline.model.conditioning_of(found.prompt_embeds).replace(**found.conditioning)
    save_conditioning(path, conditioning, family.model)
    arguments, guidance = load_file(path), 1.0
    if family.name == "ZImage":
        arguments["prompt_embeds"], guidance = [*arguments["prompt_embeds"]], 0.0
    drawn = plain(family)(
        **arguments,
        height=SIDE,
        width=SIDE,
        guidance_scale=guidance,
        num_inference_steps=2,
        generator=torch.Generator().manual_seed(5),
    ).images[0]
    assert drawn.tobytes() == found.images[0].tobytes()
    again = load_conditioning(path, family.model)
    for name, tensor in found.conditioning.items():
        assert torch.equal(again.tensors[name], tensor)


def add_token(pipeline, suffix: str, vectors: torch.Tensor) -> str:
    """Gives a text encoder tokens with these vectors; returns the prompt of them."""
    tokenizer = getattr(pipeline, f"tokenizer{suffix}")
    encoder = getattr(pipeline, f"text_encoder{suffix}")
    names = [f"<picture-{number}>" for number in range(len(vectors))]
    tokenizer.add_tokens(names)
    encoder.resize_token_embeddings(len(tokenizer), mean_resizing=False)
    with torch.no_grad():
        encoder.get_input_embeddings().weight[-len(vectors) :] = vectors
    return "".join(names)


@pytest.mark.slow
def test_text_encoders_with_the_files_vectors_give_the_same_conditioning(
    family, pipeline, image, tmp_path
):
    model, token = family.model, "<picture>"
    found = invert(pipeline, image, "token_vectors")
    path = tmp_path / "tokens.safetensors"
    save_vectors(path, found.token_vectors[0], token, model.token_parts)
    vectors, other = load_file(path), plain(family)
    if family.name == "StableDiffusion":
        other.load_textual_inversion(path)
        hidden, _ = other.encode_prompt(token, "cpu", 1, False)
        given = {"prompt_embeds": hidden}
    elif family.name == "StableDiffusionXL":
        for name, suffix in (("clip_l", ""), ("clip_g", "_2")):
            encoder = getattr(other, f"text_encoder{suffix}")
            tokenizer = getattr(other, f"tokenizer{suffix}")
            other.load_textual_inversion(vectors[name], token, tokenizer, encoder)
        hidden, _, pooled, _ = other.encode_prompt(token, do_classifier_free_guidance=False)
        given = {"prompt_embeds": hidden, "pooled_prompt_embeds": pooled}
    elif family.name == "StableDiffusion3":
        prompt = [add_token(other, s, vectors[n]) for s, n in (("", "clip_l"), ("_2", "clip_g"))]
        other.text_encoder_3 = None
        hidden, _, pooled, _ = other.encode_prompt(*prompt, None, do_classifier_free_guidance=False)
        given = {"prompt_embeds": hidden, "pooled_prompt_embeds": pooled}
    elif family.name == "Flux":
        other.load_textual_inversion(path, token, other.tokenizer_2, other.text_encoder_2)
        hidden, pooled, _ = other.encode_prompt("a picture", token)
        given = {"prompt_embeds": hidden, "pooled_prompt_embeds": pooled}
    else:
        prompt = add_token(other, "", vectors["qwen3_4b"])
        (hidden,), _ = other.encode_prompt(prompt, do_classifier_free_guidance=False)
        given = {"prompt_embeds": hidden[None]}
    assert found.token_vectors.shape[1] > 1
    expected = model.trim(model.conditioning_of(found.prompt_embeds).replace(**found.conditioning))
    assert given.keys() == expected.tensors.keys()
    for name, tensor in given.items():
        torch.testing.assert_close(tensor, expected.tensors[name], rtol=1e-4, atol=1e-5)


def test_prompts_are_compared_with_small_errors(family, pipeline, image):
    found = pipeline.log_likelihood(image, [PROMPT, "a room", PROMPT], 32, size=SIZE)
    # The place of a row in a batch may change its rounding: 3e-8 measured.
    assert found.difference(0, 2) == pytest.approx((0.0, 0.0), abs=1e-6)
    difference, error = found.difference(0, 1)
    assert difference == pytest.approx((found.bound[0] - found.bound[1]).item())
    assert 0 < error < found.standard_error.min() / 3


@pytest.mark.slow
def test_half_precision_gives_nearly_the_same_bound(family, pipeline, image):
    half = PromptInversionPipeline.from_pretrained(family.folder, dtype=torch.bfloat16)
    half.set_progress_bar_config(disable=True)
    found, exact = (
        one.log_likelihood(image, [PROMPT], 16, size=SIZE).bound.item() for one in (half, pipeline)
    )
    assert found == pytest.approx(exact, rel=0.03)


@pytest.mark.slow
def test_words_are_found(family, pipeline, image):
    found = invert(pipeline, image, "tokens", words=True)
    assert len(found.prompts[0].split()) == 3


def test_images_of_a_size_that_does_not_fit_are_refused(family, pipeline, image):
    unit = family.model.size_unit
    assert unit % family.model.pixels_per_latent == 0
    with pytest.raises(ValueError, match=f"size must be multiples of {unit} pixels"):
        pipeline.log_likelihood(image, [PROMPT], 4, size=(SIDE, SIDE + unit // 2))


@pytest.mark.parametrize("prompt", ["", " ", "red " * 600])
def test_prompts_that_cannot_be_read_are_refused(family, prompt):
    with pytest.raises(ValueError, match=r"a prompt (must have words|has at most .* tokens)"):
        family.model.check_prompt(prompt)


def test_guidance_draws_another_picture(family, image):
    model = family.model
    prompt = model.encode_prompts([PROMPT])
    plain, same, guided = (
        model.generate(prompt, [0], SIZE, scale, num_inference_steps=2)[0].tobytes()
        for scale in (1.0, 1.0, 9.0)
    )
    assert plain == same
    assert (plain == guided) == (family.name == "Flux")  # without its guidance as an input


@pytest.mark.slow
def test_offloaded_networks_give_the_same_result(family, pipeline, image, monkeypatch):
    other = PromptInversionPipeline.from_pretrained(family.folder).enable_offload("cpu")
    other.set_progress_bar_config(disable=True)
    model, calls = other.model, []
    for owner, name in ((model.pipeline, "maybe_free_model_hooks"), (model, "predict_noise")):
        function = getattr(owner, name)

        def call(*arguments, name=name, function=function):
            calls.append(name)
            return function(*arguments)

        monkeypatch.setattr(owner, name, call)
    few = InversionSettings(steps=2, draws=2, bank=4, held_out=4, snapshots=0)
    found, expected = (
        invert(one, image, ways(model)[1], settings=few) for one in (other, pipeline)
    )
    assert found.histories == expected.histories
    assert found.images[0].tobytes() == expected.images[0].tobytes()
    assert calls[calls.index("predict_noise") - 1] == "maybe_free_model_hooks"
    other.log_likelihood(image, [PROMPT], 4, size=SIZE)
    for network in model.pipeline.components.values():
        assert not isinstance(network, torch.nn.Module) or hasattr(network, "_hf_hook")


@pytest.mark.slow
def test_gradient_checkpointing_changes_no_gradient(family, image):
    model, gradients = load_model(family.folder), []
    latents, rows = model.encode_images(image, SIZE), torch.arange(1)
    for _ in range(2):
        vectors, conditioning_of = parametrize(model, [PROMPT], "hidden_states")
        objective = Objective(model, latents, conditioning_of, [0], SETTINGS)
        gradients.append(objective.gradient(vectors, rows, 0)[0])
        model.denoiser.enable_gradient_checkpointing()
    assert model.denoiser.is_gradient_checkpointing
    torch.testing.assert_close(*gradients)
