import json

import pytest
from PIL import Image
from tiny_pipelines import MAKERS, make

CAPTIONS = {"red": "a red square", "green": "a green circle", "white": "a room"}


@pytest.fixture
def data(tmp_path):
    folder = tmp_path / "pictures"
    folder.mkdir()
    for colour, caption in CAPTIONS.items():
        Image.new("RGB", (16, 16), colour).save(folder / f"{colour}.png")
        (folder / f"{colour}.txt").write_text(caption)
    return folder


@pytest.mark.parametrize("family", [*MAKERS])
def test_a_saved_model_is_measured_under_its_own_and_shuffled_captions(
    family, script, data, tmp_path, capsys
):
    folder, real = tmp_path / family, script("real_models")
    make(family).save_pretrained(folder)
    output = tmp_path / "out"
    output.mkdir()
    nowhere = str(tmp_path / "nowhere")
    options = {"images": 3, "draws": 8, "size": "16x16", "device": "cpu", "dtype": "float32"}
    real.main(str(data), output, [str(folder), nowhere], **options)
    written = json.loads((output / "models.json").read_text())
    (row,) = written["models"]
    assert row["model"] == str(folder) and row["images"] == 3 and row["draws"] == 8
    assert row["seconds_an_evaluation"] > 0 and row["peak_gib"] > 0
    assert row["difference"] == pytest.approx(row["own"] - row["shuffled"], abs=1e-6)
    assert min(row["own_error"], row["shuffled_error"], row["difference_error"]) > 0
    assert row["words_found"] in (0, 1 / 3, 2 / 3, 1)
    printed = capsys.readouterr().out
    assert (output / "table.md").read_text() in printed and f"{nowhere}: " in printed


def test_own_captions_are_recognized_by_a_model_that_knows_shapes(script, tmp_path):
    """tiny-sd, on drawings like those of its training."""
    real = script("real_models")
    examples = [*real.load_examples("shapes").examples][5:2000:400]
    pipeline = real.PromptInversionPipeline.from_pretrained()
    pipeline.set_progress_bar_config(disable=True)
    found = real.measure(pipeline, examples, 32, None)
    assert found.images == len(examples) == 5
    assert found.clear == found.words_found == 1 and found.unclear == 0
    assert found.difference > 3 * found.difference_error
    assert f"| {found.difference:.4f} ± " in real.table([found])
