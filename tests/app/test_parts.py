import io
import shlex
import sys
import threading
import time
import zlib
from collections.abc import Generator
from pathlib import Path

import gradio as gr
import pytest
import torch
from PIL import Image
from torch import nn

from invcap.app import fields
from invcap.app.caption import bars
from invcap.app.commands import as_call, as_command
from invcap.app.jobs import Worker
from invcap.app.layer import round_trip_figure
from invcap.app.page import is_loopback
from invcap.app.score import lines_of, table_of, write_scores
from invcap.captioning import Caption
from invcap.cli import main
from invcap.training.rotation import train_rotation
from invcap_ext import InvertibleNetwork, round_trip

DIFFERENCE = ("difference", "difference_standard_error")


@pytest.fixture
def network() -> nn.Module:
    return nn.Linear(2, 2)


@pytest.fixture
def worker(network, tmp_path):
    worker = Worker([network], tmp_path)
    yield worker
    worker.close()


def started(worker: Worker, work) -> Generator:
    return worker.run(work)


def finished(worker: Worker, work) -> object:
    """What some work returns."""
    return [*started(worker, work)][-1]


def test_jobs_run_one_at_a_time_and_each_gets_its_own_result(worker):
    running, most = 0, 0

    def work(number):
        nonlocal running, most
        running += 1
        most = max(most, running)
        time.sleep(0.05)
        running -= 1
        return number

    results = {}
    threads = [
        threading.Thread(
            target=lambda n=n: results.update({n: finished(worker, lambda job: work(n))})
        )
        for n in range(5)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert most == 1 and results == {n: n for n in range(5)}


def test_a_cancelled_job_ends_at_its_next_call_of_a_network(worker, network):
    calls = 0

    def work(job):
        nonlocal calls
        while True:
            network(torch.zeros(1, 2))
            calls += 1
            time.sleep(0.01)

    left = started(worker, work)
    next(left)
    left.close()
    assert finished(worker, lambda job: "next") == "next"
    before = calls
    time.sleep(0.05)
    assert calls == before > 0


def test_a_queued_job_that_is_cancelled_never_runs(worker):
    ran, go = [], threading.Event()
    first = started(worker, lambda job: go.wait(5))
    second = started(worker, lambda job: ran.append(1))
    next(first)
    next(second)
    second.close()
    go.set()
    assert [*first][-1]
    assert finished(worker, lambda job: "next") == "next" and not ran


def test_a_jobs_files_are_there_until_its_result_was_given(worker):
    def work(job):
        (job.folder / "file").write_text("x")
        return job.folder / "file"

    job = started(worker, work)
    file = next(found for found in job if isinstance(found, Path))
    assert file.read_text() == "x"
    assert not [*job]
    finished(worker, lambda job: None)
    assert not file.parent.exists()


def test_an_error_in_a_job_is_shown_as_one_sentence(worker):
    def work(job):
        raise ValueError("a sentence")

    with pytest.raises(gr.Error, match="a sentence") as error:
        finished(worker, work)
    assert not error.value.print_exception


def test_a_command_is_quoted_for_a_shell():
    prompts = ["a 'red' $HOME", "-x", 'two "words"\n; rm -rf /']
    line = as_command("score", "my picture.png", *prompts, draws=4, model=None)
    words = ["invcap", "score", "--draws", "4", "--", "my picture.png", *prompts]
    assert shlex.split(line) == words
    line = as_command("invert", "a.png", words=True, token_vectors=False, steps=0, top_k=2)
    assert line == "invcap invert --words --steps 0 --top-k 2 a.png"


def test_a_call_is_python():
    text = as_call("dict", text='a "b"\n', number=None, other=["x" * 90])
    assert eval(text) == {"text": 'a "b"\n', "other": ["x" * 90]}


def bomb() -> bytes:
    """A PNG of a few bytes that says it has 40,000 x 40,000 pixels."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        body = kind + data
        return len(data).to_bytes(4, "big") + body + zlib.crc32(body).to_bytes(4, "big")

    side = (40_000).to_bytes(4, "big")
    header = chunk(b"IHDR", side + side + bytes([8, 2, 0, 0, 0]))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")


def broken() -> bytes:
    whole = io.BytesIO()
    Image.effect_noise((64, 64), 50).save(whole, "PNG")
    return whole.getvalue()[:500]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"not a picture", "This is not a picture that can be read. Expected JPEG, PNG,"),
        (broken(), "This is not a picture that can be read."),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "This is not a picture"),
        (bomb(), "The picture is too large: at most 67,108,864 pixels"),
    ],
)
def test_a_file_that_is_no_picture_is_refused_in_a_sentence(tmp_path, content, message):
    path = tmp_path / "x.png"
    path.write_bytes(content)
    said = fields.answer(fields.check_picture, str(path))
    assert not said["is_valid"] and said["message"].startswith(message)
    assert str(tmp_path) not in said["message"] and "\n" not in said["message"]


@pytest.mark.parametrize("seed", [None, -1, 2**53])
def test_a_seed_that_cannot_be_used_is_refused(seed):
    assert not fields.answer(fields.check_seed, seed)["is_valid"]
    assert fields.answer(fields.check_seed, 7)["is_valid"]


def test_captions_are_shown_as_text():
    shown = bars([Caption("<script>alert(1)</script>", 0.5)])
    assert "<script>" not in shown and "&lt;script&gt;" in shown and "0.5000" in shown


def test_scores_are_written_best_first_whatever_the_prompts_are(tmp_path):
    names = (
        "prompt",
        "log_likelihood",
        "standard_error",
        "difference",
        "difference_standard_error",
    )
    rows = [
        dict(zip(names, values, strict=True))
        for values in (("a $x^", -2.0, 0.1, -1.0, 0.1), ("b, c", -1.0, 0.1, 0.0, 0.0))
    ]
    plot, table, _ = map(Path, write_scores(tmp_path, rows))
    lines = table.read_text().splitlines()
    assert lines[1:] == ['"b, c",-1.0,0.1,0.0,0.0', "a $x^,-2.0,0.1,-1.0,0.1"]
    assert [row[-1] for row in table_of(rows)] == ["the best", "yes"]
    assert Image.open(plot).width > 500
    assert lines_of(" a \n\nb\na\n") == ["a", "b"]


def test_a_trained_network_rotates_and_its_round_trip_is_drawn():
    torch.manual_seed(0)
    network = InvertibleNetwork(8, 3, negative_slope=0.5)
    x = torch.randn(64, 8)
    before = (network(x).norm(dim=1) / x.norm(dim=1) - 1).abs().mean()
    train_rotation(network, 60, device="cpu")
    after = (network(x).norm(dim=1) / x.norm(dim=1) - 1).abs().mean()
    assert after != before
    errors, numbers = round_trip_figure(round_trip(network, x)).axes
    assert [len(line.get_xdata()) for axes in (errors, numbers) for line in axes.lines] == [3] * 4


@pytest.mark.parametrize(
    ("host", "loopback"),
    [
        ("127.0.0.1", True),
        ("127.3.2.1", True),
        ("localhost", True),
        ("::1", True),
        ("0.0.0.0", False),
        ("192.168.1.4", False),
        ("example.org", False),
    ],
)
def test_a_public_host_is_distinguished_from_a_local_one(host, loopback):
    assert is_loopback(host) == loopback


@pytest.mark.parametrize("auth", ["name", ":word", "name:", ""])
def test_a_login_without_a_name_or_a_password_is_refused(auth, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["invcap", "app", "--auth", auth])
    with pytest.raises(SystemExit):
        main()
    assert capsys.readouterr().err.endswith(
        "error: auth must be USER:PASSWORD, with neither of them empty\n"
    )


def test_without_gradio_the_command_says_what_to_install(monkeypatch, capsys):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    monkeypatch.setattr(sys, "argv", ["invcap", "app"])
    with pytest.raises(SystemExit):
        main()
    assert capsys.readouterr().err == "error: the page needs Gradio: pip install 'invcap[app]'\n"
