"""The paper's suggestion for prompts in words: Bayesian optimisation over choices of tokens."""

import optuna
import torch
from torch import Tensor

from invcap.diffusion.noise_samples import draw_samples
from invcap.prompt_inversion import PromptInversionPipeline
from invcap.prompt_inversion.parametrization import nearest_tokens
from invcap.prompt_inversion.words import Ranking


def search_tokens(
    pipeline: PromptInversionPipeline,
    latents: Tensor,
    prompt: str,
    trials: int = 60,
    choices: int = 8,
    draws: int = 16,
    seed: int = 0,
) -> Ranking:
    """Searches for likelier prompts by Bayesian optimisation over choices of tokens.

    Args:
        latents: (C, h, w), of the picture.
        prompt: where to begin; each of its tokens may become one of those nearest to it.
        trials: prompts to measure.
        choices: tokens for each place, its own included.
        draws: pairs of the bank on which all are measured.

    Source: "Image captioning with text-to-image models", section 6, which suggests it; the search
    is a tree-structured Parzen estimator, Bergstra et al., "Algorithms for hyper-parameter
    optimization" (2011).
    """
    pipeline.check_prompt(prompt)
    generator = torch.Generator().manual_seed(seed)
    bank = draw_samples(pipeline.schedule, draws, tuple(latents.shape), generator)
    tokenizer = pipeline.tokenizer
    ids = torch.tensor(tokenizer(prompt, add_special_tokens=False).input_ids)
    table = pipeline.text_encoder.get_input_embeddings().weight.float().cpu()
    near, _ = nearest_tokens(pipeline, table[ids], choices)
    options = [
        list(dict.fromkeys([own, *others]))
        for own, others in zip(ids.tolist(), near.tolist(), strict=True)
    ]
    found: dict[str, float] = {}

    def bound(trial: optuna.Trial) -> float:
        picked = [
            trial.suggest_categorical(str(place), tokens) for place, tokens in enumerate(options)
        ]
        text = tokenizer.decode(picked).strip()
        if text not in found:
            hidden = pipeline.encode_prompts([text])[0]
            found[text] = pipeline.bound_terms(latents, hidden, bank).mean().item()
        return found[text]

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study(
        direction="maximize", sampler=optuna.samplers.TPESampler(seed=seed, multivariate=True)
    )
    study.enqueue_trial({str(place): token for place, token in enumerate(ids.tolist())})
    study.optimize(bound, trials)
    return Ranking(sorted(found, key=found.__getitem__, reverse=True), draws * len(found))
