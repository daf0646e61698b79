"""Commands of prompt inversion."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from invcap.cli.memory import load_pipeline
from invcap.cli.options import (
    DEFAULT_CACHE,
    Cache,
    Device,
    Diffusion,
    Dtype,
    ImageSize,
    Json,
    Seed,
    given,
    parse_size,
)
from invcap.cli.output import print_result
from invcap.cli.words import in_words, load_bank, load_captioner, load_proposer, read_sentences

app = typer.Typer()
ComputeDtype = Annotated[
    str | None,
    typer.Option(help="Dtype of their arithmetic, to which weights are converted when used."),
]
FourBit = Annotated[
    bool, typer.Option(help="Load large networks in 4 bits: bitsandbytes, on a GPU.")
]
Offload = Annotated[
    bool, typer.Option(help="Keep on the device only the network that computes: less memory.")
]
GroupOffload = Annotated[
    bool, typer.Option(help="Keep on the device only the layer that computes: least memory.")
]


@app.command(
    epilog='Example: `invcap score picture.png "a red square, black background" "a green circle"`'
)
def score(
    picture: Annotated[Path, typer.Argument(help="Image file.")],
    prompts: Annotated[list[str] | None, typer.Argument(help="Sentences.")] = None,
    file: Annotated[
        Path | None,
        typer.Option("--prompts", help="Text file of sentences, one a line, in place of PROMPTS."),
    ] = None,
    winners: Annotated[
        int, typer.Option(help="Of a file's prompts, how many are measured to the end.")
    ] = 10,
    model: Diffusion = None,
    dtype: Dtype = "float32",
    device: Device = "auto",
    size: ImageSize = None,
    compute_dtype: ComputeDtype = None,
    four_bit: FourBit = False,
    offload: Offload = False,
    group_offload: GroupOffload = False,
    draws: Annotated[int, typer.Option(help="Noise samples: UNet evaluations a prompt.")] = 256,
    seed: Seed = 0,
    as_json: Json = False,
) -> None:
    """Scores prompts by likelihood: a bound of log p(image | prompt), nats per latent number.

    Differences are to the best. All prompts share the same noise samples, so the errors of
    differences are far smaller than those of the bounds.

    A file may hold thousands of prompts: the likelier half goes on to twice as many noise samples,
    and so on. The winners are printed, the best first.
    """
    import torch

    from invcap.training.devices import resolve_device

    if bool(prompts) == (file is not None):
        raise ValueError("expected either PROMPTS or --prompts FILE")
    asked = read_sentences(file) if file is not None else prompts or []
    where = resolve_device(device)
    pipeline = load_pipeline(model, where, dtype, compute_dtype, four_bit, offload, group_offload)
    generator = torch.Generator().manual_seed(seed)
    pixels = parse_size(size) if size else None
    if file is None:
        found = pipeline.log_likelihood(picture, asked, draws, generator, pixels)
    else:
        found = pipeline.likeliest(picture, asked, winners, draws, generator, pixels)
    result = found.rows()
    width = max(map(len, found.prompts))
    lines = [f"{'prompt':{width}}  {'bound':>9}  {'error':>7}  {'to best':>9}  {'error':>7}"]
    lines += [
        f"{r['prompt']:{width}}  {r['log_likelihood']:9.4f}  {r['standard_error']:7.4f}  "
        f"{r['difference']:9.4f}  {r['difference_standard_error']:7.4f}"
        for r in result
    ]
    print_result("\n".join(lines), result, as_json)


@app.command(epilog="Example: `invcap invert picture.png more-pictures --output inverted`")
def invert(
    pictures: Annotated[list[Path], typer.Argument(help="Image files, or folders of them.")],
    output: Annotated[Path, typer.Option(help="Folder; each image gets one of its name in it.")],
    model: Diffusion = None,
    dtype: Dtype = "float32",
    device: Device = "auto",
    size: ImageSize = None,
    start: Annotated[
        str,
        typer.Option(
            help="Where to begin: a sentence; `caption`, what --captioner says; `amortised` or "
            "`meta`, learned by `invcap train-starts` (tiny-sd has both)."
        ),
    ] = "a room",
    captioner: Annotated[
        Path | None, typer.Option(help="Folder that `invcap train` wrote, for captions and words.")
    ] = None,
    starts: Annotated[
        Path | None, typer.Option(help="Folder of learned starts; default the model's own.")
    ] = None,
    words: Annotated[
        bool,
        typer.Option(
            help="Also find the likeliest prompt in words, among what --captioner and --proposer "
            "say, the start, and what --token-vectors are read as; with --data or --sentences by a "
            "search in their vocabulary."
        ),
    ] = False,
    data: Annotated[
        str | None,
        typer.Option(help="Captioned images, as in `invcap train`: search their captions."),
    ] = None,
    sentences: Annotated[
        Path | None, typer.Option(help="Text file of sentences, one a line: search words in them.")
    ] = None,
    budget: Annotated[
        int | None, typer.Option(help="Most UNet evaluations of the search for an image.")
    ] = None,
    cache: Cache = DEFAULT_CACHE,
    proposer: Annotated[
        str | None,
        typer.Option(help="Image-to-text model of transformers: folder or hub name."),
    ] = None,
    proposer_prompt: Annotated[
        str, typer.Option(help="What --proposer is told beside each image.")
    ] = "",
    write_txt: Annotated[
        bool,
        typer.Option("--write-txt", help="Write the words to NAME.txt beside the folder NAME."),
    ] = False,
    together: Annotated[
        bool, typer.Option(help="Find one embedding for all pictures, in the folder `together`.")
    ] = False,
    negative: Annotated[
        bool, typer.Option(help="Find a negative prompt: the least likely for each picture.")
    ] = False,
    steps: Annotated[int | None, typer.Option(help="Most gradient steps.")] = None,
    draws: Annotated[int | None, typer.Option(help="UNet evaluations for each gradient.")] = None,
    learning_rate: Annotated[float | None, typer.Option(help="Adam's learning rate.")] = None,
    weighting: Annotated[
        str | None, typer.Option(help="`balanced`, `elbo`, `mean` (the paper's) or `epsilon`.")
    ] = None,
    average: Annotated[
        float | None, typer.Option(help="Decay of a moving average of the embedding; 0 for none.")
    ] = None,
    token_vectors: Annotated[
        bool, typer.Option(help="Optimize the start's token vectors; write them for diffusers too.")
    ] = False,
    pooled: Annotated[
        bool,
        typer.Option(help="Optimize the pooled embedding too, where the model has one."),
    ] = False,
    compute_dtype: ComputeDtype = None,
    four_bit: FourBit = False,
    offload: Offload = False,
    group_offload: GroupOffload = False,
    gradient_checkpointing: Annotated[bool, typer.Option(help="Less memory, more time.")] = False,
    attention_slicing: Annotated[bool, typer.Option(help="Less memory, more time.")] = False,
    guidance_scale: Annotated[float, typer.Option(help="Guidance of the generated images.")] = 1.0,
    batch_size: Annotated[int, typer.Option(help="Images inverted at once.")] = 32,
    resume: Annotated[bool, typer.Option(help="Resume the run that OUTPUT holds.")] = False,
    seed: Seed = 0,
    as_json: Json = False,
) -> None:
    """Finds the prompt embedding that most likely made each image.

    Writes for each its embedding, its history, a plot of both bounds, and a strip of images
    generated on the way, beside the target. A folder stands for all images in it; those that
    cannot be used are skipped and listed.

    A run that was killed resumes with --resume, to the same results. `torchrun --nproc-per-node 2
    -m invcap.cli invert ...` or `accelerate launch -m invcap.cli invert ...` spreads it over
    processes and GPUs.
    """
    from invcap.prompt_inversion import bulk
    from invcap.prompt_inversion.parametrization import Parametrization
    from invcap.prompt_inversion.settings import default_settings
    from invcap.prompt_inversion.word_search import SearchSettings, WordSearch
    from invcap.training.devices import start_processes

    sources = {"--data": data, "--sentences": sentences, "--proposer": proposer}
    unused = [name for name, value in sources.items() if value is not None and not words]
    if unused:
        raise ValueError(f"{unused[0]} is for --words, which is not given")
    if budget is not None and data is None and sentences is None:
        raise ValueError("--budget is for a search, which needs --data or --sentences")
    if proposer_prompt and proposer is None:
        raise ValueError("--proposer-prompt needs --proposer")
    if token_vectors and pooled:
        raise ValueError("--pooled cannot be used with --token-vectors, which determine it")
    processes = start_processes(device)
    where = processes.device
    pipeline = load_pipeline(model, where, dtype, compute_dtype, four_bit, offload, group_offload)
    if gradient_checkpointing:
        pipeline.model.denoiser.enable_gradient_checkpointing()
    if attention_slicing:
        pipeline.text_to_image.enable_attention_slicing()
    overrides = given(
        steps=steps,
        draws=draws,
        learning_rate=learning_rate,
        weighting=weighting,
        average=average,
    )
    over: Parametrization = "conditioning" if pooled else "hidden_states"
    bank = None
    if data is not None or sentences is not None:
        bank = load_bank(pipeline.model, data, sentences, cache, processes)
    search = SearchSettings(**given(budget=budget)) if bank else None
    settings = bulk.RunSettings(
        parse_size(size) if size else pipeline.size,
        default_settings(start, pipeline.model.schedule, **overrides),
        start=start,
        captioner=str(captioner) if captioner else None,
        starts=str(starts) if starts else None,
        words=words,
        sentences=bank.identity if bank else None,
        search=search,
        proposer=" ".join(filter(None, [proposer, proposer_prompt])) or None,
        write_txt=write_txt,
        over="token_vectors" if token_vectors else over,
        seed=seed,
        guidance_scale=guidance_scale,
        batch_size=batch_size,
        together=together,
        negative=negative,
    )
    says = load_captioner(captioner, processes.device)
    found = WordSearch(
        bank, load_proposer(proposer, proposer_prompt, processes.device), **given(settings=search)
    )
    result = bulk.invert(pipeline, pictures, output, settings, processes, resume, says, found)
    processes.end_training()
    if processes.is_main_process:
        lines = (
            f"{r.get('picture') or ' '.join(r['pictures'])}\t{r['embedding']}\t"
            f"bound {r['log_likelihood']:.4f} ± {r['standard_error']:.4f} after {r['steps']} steps"
            + in_words(r)
            for r in result
        )
        print_result("\n".join(lines), result, as_json)
