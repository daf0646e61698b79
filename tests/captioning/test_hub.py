"""A captioner on a hub that is a folder."""

import shutil

import huggingface_hub.hub_mixin as mixin
import pytest

from invcap import InvertibleCaptioner
from invcap.captioning import model as module


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """A folder that models are pushed to and downloaded from."""
    folder = tmp_path / "hub"

    class Api:
        def __init__(self, token=None):
            pass

        def create_repo(self, repo_id, **options):
            return type("Repo", (), {"repo_id": repo_id})

        def upload_folder(self, repo_id, folder_path, **options):
            shutil.copytree(folder_path, folder / repo_id)

    monkeypatch.setattr(mixin, "HfApi", Api)
    monkeypatch.setattr(
        mixin, "hf_hub_download", lambda repo_id, filename, **_: str(folder / repo_id / filename)
    )
    monkeypatch.setattr(module, "snapshot_download", lambda repo_id, **_: str(folder / repo_id))
    return folder


def test_what_is_pushed_is_loaded_by_its_name_and_says_the_same(captioner, images, hub):
    captioner.push_to_hub("someone/shapes")
    loaded = InvertibleCaptioner.from_pretrained("someone/shapes")
    (ours,), (theirs,) = captioner.caption(images[0]), loaded.caption(images[0])
    assert ours[0].text == theirs[0].text


def test_the_card_shows_data_figures_and_images_and_is_pushed_with_the_model(
    captioner, images, hub, tmp_path
):
    recall = {"r_at_1": 0.5, "r_at_10": 0.75}
    captioner.about = {
        "data": {"data": "shapes", "size": [32, 32], "held_out": 0.1},
        "training": {"depth": 3},
        "metrics": {
            "caption": {"mse": 0.0371, **recall},
            "generation": {"latent_mse": 2, **recall},
        },
    }
    captioner.samples = images[0]
    captioner.save_pretrained(tmp_path / "model")
    InvertibleCaptioner.from_pretrained(tmp_path / "model").push_to_hub("someone/shapes")
    pushed = hub / "someone/shapes"
    card = (pushed / "README.md").read_text()
    for said in (
        "library_name: invcap",
        "`shapes`",
        "32 x 32",
        "0.0371 | 0.500 | 0.750",
        "`depth` 3",
    ):
        assert said in card
    assert "](samples.png)" in card and (pushed / "samples.png").exists()


def test_a_model_that_cannot_be_found_is_named(tmp_path):
    with pytest.raises(ValueError, match="nowhere/at/all: neither a folder nor a model"):
        InvertibleCaptioner.from_pretrained("nowhere/at/all")
