import pytest

from triptych.errors import InputError
from triptych.evaluate.size import free_bytes, size_bytes


def test_all_files_count(tmp_path):
    (tmp_path / "model" / "processor").mkdir(parents=True)
    (tmp_path / "model" / "weights").write_bytes(bytes(1000))
    (tmp_path / "model" / ".hidden").write_bytes(bytes(10))
    (tmp_path / "model" / "processor" / "tokenizer.json").write_bytes(bytes(7))
    assert size_bytes(tmp_path / "model") == 1017
    assert size_bytes(tmp_path / "model" / "weights") == 1000
    (tmp_path / "empty").mkdir()
    assert size_bytes(tmp_path / "empty") == 0


def test_a_link_counts_as_what_it_leads_to(tmp_path):
    (tmp_path / "blob").write_bytes(bytes(500))
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "weights").symlink_to(tmp_path / "blob")
    assert size_bytes(tmp_path / "model") == 500
    (tmp_path / "blob").unlink()
    with pytest.raises(
        InputError, match=r"model/weights is a link to a file that is not there\. Download the model again"
    ):
        size_bytes(tmp_path / "model")


def test_nothing_has_no_size(tmp_path):
    with pytest.raises(InputError, match=r"There is no file or folder .*/none\. Check the path"):
        size_bytes(tmp_path / "none")


def test_free_bytes_of_a_folder_that_is_not_made_yet(tmp_path):
    assert free_bytes(tmp_path / "a" / "b") > 0
