import torch

from invcap.prompt_inversion import InversionSettings

SETTINGS = InversionSettings(steps=8, draws=4, bank=16, held_out=8, evaluate_every=2, patience=None)
FIELDS = ("prompt_embeds", "log_likelihood", "standard_error")


def invert(pipeline, pictures, **options):
    return pipeline.invert(pictures, "a room", SETTINGS, num_inference_steps=1, **options)


def test_the_callback_sees_every_step(pipeline, pictures):
    seen = []

    def callback(passed, step, values):
        assert passed is pipeline
        seen.append((step, values["vectors"].shape, values["held_out"].shape))

    invert(pipeline, pictures[:2], callback_on_step_end=callback)
    assert seen == [(step, (2, 77, 16), (2,)) for step in range(1, 9)]


def test_a_callback_that_returns_false_ends_with_the_best_so_far(pipeline, pictures, tmp_path):
    path = tmp_path / "checkpoint.safetensors"
    seen = []

    def stop(pipeline, step, values):
        seen.append(values["so_far"]())
        return step < 3

    found = invert(pipeline, pictures[:2], checkpoint=path, callback_on_step_end=stop)
    assert [output.histories[0].evaluated for output in seen] == [[0], [0, 2], [0, 2]]
    for history, bound in zip(found.histories, found.log_likelihood.tolist(), strict=True):
        assert history.evaluated == [0, 2, 3] and len(history.training) == 3
        assert bound == max(history.held_out)
    assert torch.equal(seen[-1].log_likelihood, seen[1].log_likelihood) and not seen[-1].images
    resumed = invert(pipeline, pictures[:2], checkpoint=path)
    whole = invert(pipeline, pictures[:2])
    assert all(torch.equal(resumed[name], whole[name]) for name in FIELDS)
