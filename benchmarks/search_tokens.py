"""The paper's suggestion for prompts in words: Bayesian optimization over choices of tokens."""

import optuna
import torch
from torch import Tensor

from invcap.diffusion.model import FrozenTextToImage
from invcap.diffusion.noise_samples import draw_samples
from invcap.prompt_inversion.objective import bound_terms
from invcap.prompt_inversion.tokens import Words
from invcap.prompt_inversion.words import Ranking


def search_tokens(
    model: FrozenTextToImage,
    latents: Tensor,
    prompt: str,
    trials: int = 60,
    choices: int = 8,
    draws: int = 16,
    seed: int = 0,
) -> Ranking:
    """Searches for likelier prompts by Bayesian optimization over choices of tokens.

    Args:
        latents: (C, h, w), of the picture.
        prompt: the initial prompt, in which each token may be replaced by one of the nearest.
        trials: number of prompts to measure.
        choices: number of tokens for each place, with the initial one.
        draws: number of noise samples, which all prompts share.

    Source: "Image captioning with text-to-image models", section 6, which suggests it; the search
    is a tree-structured Parzen estimator, Bergstra et al., "Algorithms for hyper-parameter
    optimization" (2011).
    """
    model.check_prompt(prompt)
    generator = torch.Generator().manual_seed(seed)
    samples = draw_samples(model.schedule, draws, tuple(latents.shape), generator).expand(1)
    own, words = model.tokenize(prompt), Words.of(model)
    near = words.ids[words.nearest(model.token_table[own], choices)].tolist()
    options = [list({token: 0} | dict.fromkeys(near[at])) for at, token in enumerate(own)]
    found: dict[str, float] = {}

    def bound(trial: optuna.Trial) -> float:
        picked = [trial.suggest_categorical(str(at), tokens) for at, tokens in enumerate(options)]
        (text,) = model.read_tokens(torch.tensor([picked]))
        if text not in found:
            terms = bound_terms(model, latents[None], model.encode_prompts([text]), samples)
            found[text] = terms.mean().item()
        return found[text]

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study(
        direction="maximize", sampler=optuna.samplers.TPESampler(seed=seed, multivariate=True)
    )
    study.enqueue_trial({str(at): token for at, token in enumerate(own)})
    study.optimize(bound, trials)
    return Ranking(sorted(found, key=found.__getitem__, reverse=True), draws * len(found))
