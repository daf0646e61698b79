import os
import stat

import pytest
import torch

from invcap.files import (
    read_json,
    read_tensors,
    remove_unfinished,
    replacing,
    write_json,
    write_tensors,
)


def test_a_file_whose_writing_fails_keeps_its_old_content_and_leaves_nothing_beside(tmp_path):
    path = tmp_path / "value.json"
    write_json(path, [1])
    with pytest.raises(RuntimeError), replacing(path) as temporary:
        temporary.write_text("half")
        raise RuntimeError
    assert read_json(path) == [1]
    assert [p.name for p in tmp_path.iterdir()] == ["value.json"]


def test_tensors_and_metadata_come_back(tmp_path):
    path = tmp_path / "deep" / "x.safetensors"
    write_tensors(path, {"a": torch.arange(6.0).view(2, 3).T}, step="7")
    tensors, metadata = read_tensors(path)
    assert torch.equal(tensors["a"], torch.arange(6.0).view(2, 3).T)
    assert metadata["step"] == "7"


@pytest.mark.parametrize("read", [read_json, read_tensors])
def test_a_missing_or_broken_file_is_named(tmp_path, read):
    path = tmp_path / "there.is"
    with pytest.raises(ValueError, match=r"there\.is: no such file"):
        read(path)
    path.write_bytes(b"\x80 not what was expected")
    with pytest.raises(ValueError, match=r"there\.is: not a"):
        read(path)


@pytest.mark.parametrize("umask", [0o022, 0o027, 0o002])
def test_files_have_the_permissions_of_the_umask(tmp_path, umask):
    before = os.umask(umask)
    try:
        write_json(tmp_path / "value.json", [1])
        write_tensors(tmp_path / "x.safetensors", {"a": torch.zeros(2)})
    finally:
        os.umask(before)
    modes = {stat.S_IMODE(path.stat().st_mode) for path in tmp_path.iterdir()}
    assert modes == {0o666 & ~umask}


def test_only_unfinished_files_of_killed_processes_are_removed(tmp_path):
    write_json(tmp_path / "value.json", [1])
    for name in (".value.json.123.tmp", ".tmpAbC"):
        (tmp_path / name).touch()
    (tmp_path / ".shard.tmp").mkdir()
    (tmp_path / ".shard.tmp" / "part").touch()
    remove_unfinished(tmp_path, tmp_path / "not there")
    assert [path.name for path in tmp_path.iterdir()] == ["value.json"]
