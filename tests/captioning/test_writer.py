import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch import nn
from transformers import GPT2Config, GPT2LMHeadModel

from invcap.captioning import InvertibleCaptioner
from invcap.captioning.language import load_language, train_tokenizer
from invcap.captioning.pairs import Pairs
from invcap.captioning.scaler import Scaler
from invcap.captioning.train_writer import (
    WRITER_CHECKPOINT,
    TokenRows,
    WriterSettings,
    make_optimizers,
    make_writer,
    train_writer,
)
from invcap.captioning.writer import IGNORED, MOST_TOKENS, Writer
from invcap.data.shapes import scenes
from invcap.hashing import fingerprint
from invcap.training.trainer import LossModule, TrainerSettings, take_step
from invcap_ext import InvertibleNetwork

SETTINGS = WriterSettings(
    layers=2, width=32, prefix=2, vocabulary=320, batch_size=8, steps=6, checkpoint_every=3
)
FEATURES = 24
CAPTIONS = [scene.caption() for scene in list(scenes())[::400]]


@pytest.fixture
def writer() -> Writer:
    return make_writer(None, CAPTIONS, FEATURES, SETTINGS)


@pytest.fixture
def run(accelerator):
    def train(output: Path, settings: WriterSettings = SETTINGS, data: str = "") -> Writer:
        x = torch.randn(len(CAPTIONS), FEATURES, generator=torch.Generator().manual_seed(0))
        every = torch.arange(len(CAPTIONS))
        pairs = Pairs(CAPTIONS, x, CAPTIONS, x.square(), every, every, identity=data)
        one, other = (Scaler(torch.zeros(FEATURES), torch.ones(FEATURES)) for _ in range(2))
        torch.manual_seed(0)
        network = InvertibleNetwork(FEATURES, 2, negative_slope=0.5)
        trained = train_writer(None, pairs, network, one, other, 0.1, settings, output, accelerator)
        return trained.module

    return train


def weights(writer: Writer) -> Iterator[tuple[str, torch.Tensor]]:
    yield from writer.state_dict().items()


def test_a_writer_is_a_folder_of_transformers_and_writes_the_same_from_it(writer, tmp_path):
    writer.save(tmp_path / "writer")
    loaded = Writer.load(tmp_path / "writer")
    e = torch.randn(3, FEATURES)
    assert loaded.write(e, 2) == writer.write(e, 2)
    assert {path.suffix for path in (tmp_path / "writer").iterdir()} <= {".json", ".safetensors"}
    language, tokenizer = load_language(str(tmp_path / "writer"))
    assert fingerprint(language) == fingerprint(writer.language)
    text = "a «blue» 星, and what is in no caption"
    assert tokenizer.decode(tokenizer(text)["input_ids"]) == text


@pytest.mark.parametrize("name", ["projection.safetensors", "config.json"])
def test_a_missing_file_of_a_writer_is_named(writer, name, tmp_path):
    writer.save(tmp_path)
    (tmp_path / name).unlink()
    with pytest.raises(ValueError, match=str(tmp_path)):
        Writer.load(tmp_path)


def test_a_run_resumed_from_a_checkpoint_gives_the_same_writer(run, tmp_path, monkeypatch):
    whole = run(tmp_path / "whole")
    real = __import__("invcap.training.trainer", fromlist=["save_checkpoint"]).save_checkpoint

    def save_then_die(*arguments):
        real(*arguments)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr("invcap.training.trainer.save_checkpoint", save_then_die)
        run(tmp_path / "killed")
    torch.manual_seed(9)
    resumed = dict(weights(run(tmp_path / "killed")))
    for name, value in weights(whole):
        assert torch.equal(value, resumed[name]), name
    with pytest.raises(ValueError, match="cannot resume: steps differs"):
        run(tmp_path / "killed", replace(SETTINGS, steps=7))
    with pytest.raises(ValueError, match="cannot resume: data differs"):
        run(tmp_path / "killed", data="other")
    assert (tmp_path / "killed" / WRITER_CHECKPOINT).exists()


def test_parts_of_a_batch_count_by_their_tokens(writer):
    rows = TokenRows(writer.tokenizer, ["a star", CAPTIONS[0], "a", "a red star on blue"])
    tokens = rows[torch.arange(4)]
    weight = (4 / (tokens != IGNORED).sum()).expand(4)
    e = torch.randn(4, FEATURES)

    def loss(part: slice) -> torch.Tensor:
        return writer.losses(e[part], tokens[part], weight[part])["writer"]

    whole = loss(slice(0, 4))
    parts = torch.stack([loss(slice(0, 1)), loss(slice(1, 4))])
    torch.testing.assert_close(parts @ torch.tensor([0.25, 0.75]), whole)
    # By hand, token by token.
    total, count = torch.zeros(()), 0
    for row, own in zip(e, tokens, strict=True):
        text = own[own != IGNORED]
        inputs = writer.language.get_input_embeddings()(text)
        inputs = torch.cat([writer.prefix(row[None])[0], inputs])
        found = writer.language(inputs_embeds=inputs[None]).logits[0, 1:-1].log_softmax(-1)
        total = total - found[torch.arange(len(text)), text].sum()
        count += len(text)
    torch.testing.assert_close(total / count, whole)


def test_tokens_end_the_text_unless_it_is_too_long():
    tokenizer = train_tokenizer(CAPTIONS, 320)
    tokens = TokenRows(tokenizer, ["a star", "words " * 200, "a"])[torch.tensor([2, 1, 0, 2])]
    assert tokens.shape == (4, MOST_TOKENS) and tokens[0].equal(tokens[3])
    assert tokenizer.eos_token_id not in tokens[1].tolist() and IGNORED not in tokens[1].tolist()
    own = tokens[2][tokens[2] != IGNORED]
    assert own[-1] == tokenizer.eos_token_id and tokenizer.decode(own[:-1]) == "a star"


class Bigrams(nn.Module):
    """A language model that looks back by one token, with the interface of transformers."""

    def __init__(self):
        super().__init__()
        self.embedding, self.head = nn.Embedding(9, 32), nn.Linear(32, 9)

    def get_input_embeddings(self):
        return self.embedding

    def forward(self, inputs_embeds, use_cache, logits_to_keep):
        return SimpleNamespace(logits=self.head(inputs_embeds[:, -logits_to_keep:]))


def test_a_step_forward_and_backward_leaves_nothing_on_the_cpu(accelerator):
    writer = Writer(Bigrams(), None, FEATURES, 2).to("meta")
    batch = {
        "e": torch.empty(8, FEATURES, device="meta"),
        "tokens": torch.empty(8, 5, dtype=torch.int64, device="meta"),
        "weight": torch.empty(8, device="meta"),
    }
    forward = LossModule(writer, lambda writer, batch: writer.losses(**batch))
    optimizers = make_optimizers(writer, SETTINGS)
    losses = take_step(forward, [batch], [1.0], optimizers, TrainerSettings(1, 8), accelerator)
    assert losses["writer"].device.type == "meta"


def test_a_pretrained_model_comes_with_its_own_tokenizer(tmp_path):
    tokenizer = train_tokenizer(["entirely other words"], 300)
    tokenizer.save_pretrained(tmp_path)
    sizes = {"vocab_size": len(tokenizer), "n_embd": 32, "n_layer": 1, "n_head": 2}
    config = GPT2Config(**sizes, eos_token_id=tokenizer.eos_token_id)
    language = GPT2LMHeadModel(config).half()
    language.save_pretrained(tmp_path)
    loaded = load_language(str(tmp_path))
    made = make_writer(loaded, CAPTIONS, FEATURES, replace(SETTINGS, model=str(tmp_path)))
    assert made.language.dtype == torch.float32
    assert made.tokenizer.get_vocab() == tokenizer.get_vocab()
    assert len(made.write(torch.randn(2, FEATURES), 3)[1]) == 3


def test_beams_are_ranked_by_their_own_embedding(captioner, images, sentences):
    captioner.writer = make_writer(None, CAPTIONS, 384, SETTINGS)
    (best,) = captioner.write(images[0], top_k=4, beams=6)
    texts, scores = [c.text for c in best], torch.tensor([c.score for c in best])
    (beams,) = captioner.writer.write(captioner.embed(images[0]), 6)
    own = captioner.embedding_scaler(sentences.encode(beams))
    cosines = torch.cosine_similarity(captioner.embed(images[0]), own)
    assert texts[0] == beams[cosines.argmax()]
    assert set(texts) <= set(beams) and len(set(texts)) == len(texts)
    nearest = sorted(dict(zip(beams, cosines.tolist(), strict=True)).values(), reverse=True)[:4]
    assert 1 < len(nearest) == len(texts)
    torch.testing.assert_close(scores, torch.tensor(nearest), rtol=0, atol=1e-4)


def test_a_captioner_keeps_its_writer_and_one_without_says_how_to_get_one(
    captioner, images, tmp_path
):
    captioner.save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    assert config.pop("writer") is False
    (tmp_path / "config.json").write_text(json.dumps(config))  # as earlier versions wrote it
    with pytest.raises(ValueError, match="no writer; `invcap train --writer small --resume`"):
        InvertibleCaptioner.from_pretrained(tmp_path).write(images[0])
    captioner.writer = make_writer(None, CAPTIONS, 384, SETTINGS)
    captioner.save_pretrained(tmp_path)
    loaded = InvertibleCaptioner.from_pretrained(tmp_path)
    ours, theirs = captioner.write(images[:2], beams=2), loaded.write(images[:2], beams=2)
    assert [c.text for (c,) in ours] == [c.text for (c,) in theirs]
    with pytest.raises(ValueError, match="top_k must be from 1 to beams, 2, got 3"):
        loaded.write(images[0], top_k=3, beams=2)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"steps": 0}, "writer steps must be at least 1, got 0"),
        ({"width": 40}, "writer width must be a multiple of 32, got 40"),
        ({"noise": float("nan")}, "writer noise must be finite and at least 0, got nan"),
        ({"predicted": 1.5}, "writer predicted must be from 0 to 1, got 1.5"),
    ],
)
def test_bad_settings_are_named(settings, message):
    with pytest.raises(ValueError, match=message):
        WriterSettings(**settings)
