import pytest
import torch

from invcap.files import read_json, read_tensors, replacing, write_json, write_tensors


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
