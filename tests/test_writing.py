"""Files written whole or not at all."""

import pytest

from segjax.writing import write_text, writing


def test_the_file_before_stays_until_the_new_one_is_whole(tmp_path, full_disk):
    path = tmp_path / "result.json"
    write_text(path, "old")
    with full_disk(0):
        with pytest.raises(OSError) as error:
            write_text(path, "new and longer")
    assert str(error.value).startswith(f"{path} cannot be written (")
    assert "\n" not in str(error.value)
    assert path.read_text() == "old" and list(tmp_path.iterdir()) == [path]
    write_text(path, "new")
    assert path.read_text() == "new"


def test_other_errors_pass(tmp_path):
    with pytest.raises(KeyError), writing(tmp_path):
        raise KeyError("x")
