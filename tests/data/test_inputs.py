"""Which files are meant, in what order, and names of outputs that never meet."""

import os
from pathlib import Path, PurePosixPath

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from segjax.data import inputs

ENDINGS = ("", "_overlay", "_contours")


@pytest.fixture
def tree(tmp_path, monkeypatch):
    """Files (empty: finding does not read) below the current folder."""
    for name in (
        *("photos/b.jpg", "photos/a.PNG", "photos/deep/er/c.tif", "photos/notes.txt"),
        *(
            "photos/.hidden.png",
            "photos/.git/x.png",
            "photos/clip.mp4",
            "other/b.jpg",
            "gifs/a.gif",
        ),
        *("scan.gif", "none/readme.md"),
    ):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    monkeypatch.chdir(tmp_path)
    return tmp_path


def found(*wanted: str, lines=(), output="out"):
    items, passed = inputs.find(wanted, Path(output), ENDINGS, lines)
    here = Path.cwd()
    return [(str(i.path.relative_to(here)), i.name) for i in items], passed


def test_a_folder_is_read_with_all_below(tree):
    assert found("photos") == (
        [
            ("photos/a.PNG", "a"),
            ("photos/b.jpg", "b"),
            ("photos/deep/er/c.tif", "deep/er/c"),
        ],
        {".mp4": 1},  # which is not named itself
    )


def test_files_patterns_and_lists(tree):
    assert found("photos/b.jpg") == ([("photos/b.jpg", "b")], {})
    assert found("scan.gif", "photos/clip.mp4")[0] == [
        ("scan.gif", "scan"),
        ("photos/clip.mp4", "photos/clip"),
    ]
    deep = [("photos/b.jpg", "b"), ("photos/deep/er/c.tif", "deep/er/c")]
    assert found("photos/**/*.[jt]*[gf]")[0] == deep
    # Two folders with the same names below: told apart by the folders' own.
    assert found("other", "photos/b.jpg")[0] == [
        ("other/b.jpg", "other/b"),
        ("photos/b.jpg", "photos/b"),
    ]
    lines = ["photos/../other/b.jpg\n", "\n", f"{tree}/photos\r\n", "gone.png\n"]
    assert found("-", lines=lines)[0] == [
        ("other/b.jpg", "other/b"),
        ("photos/a.PNG", "photos/a"),
        ("photos/b.jpg", "photos/b"),
        ("photos/deep/er/c.tif", "photos/deep/er/c"),
        ("gone.png", "gone"),  # reading it will say that it is not there
    ]
    assert found("gifs")[0] == [("gifs/a.gif", "a")]
    # Named twice, read once.
    assert len(found("photos/b.jpg", "photos", "photos/*.jpg", "./photos")[0]) == 3


def test_what_is_in_the_output_is_no_input(tree):
    (tree / "photos" / "out").mkdir()
    (tree / "photos" / "out" / "old.png").touch()
    names = [name for _, name in found("photos", output="photos/out")[0]]
    assert names == ["a", "b", "deep/er/c"]
    with pytest.raises(ValueError, match=r"a\.png would be overwritten by the labels"):
        (tree / "photos" / "a.png").touch()
        (tree / "photos" / "a.PNG").unlink()
        found("photos/a.png", output="photos")
    with pytest.raises(ValueError, match="--output photos.deep: is --input, too"):
        found("photos/deep", output="photos/deep")


@pytest.mark.parametrize(
    "wanted, message",
    [
        ("nowhere", "--input nowhere: there is no such file or folder"),
        ("photos/*.bmp", r"--input photos/\*.bmp: no file matches"),
        ("none", "--input none: no image in this folder"),
        ("-", "--input -: names no file"),
    ],
)
def test_a_mistake_is_named(tree, wanted, message):
    with pytest.raises(ValueError, match=message):
        found(wanted)
    (tree / "clips").mkdir()
    (tree / "clips" / "a.mp4").touch()
    with pytest.raises(ValueError, match=r"videos \(1\) are passed over; name them"):
        found("clips")


def test_equal_stems_keep_their_suffixes():
    paths = [
        PurePosixPath(p) for p in ("a.png", "a.jpg", "b/a.png", "A.tif", "c.x.png")
    ]
    got = inputs.output_names(paths, ENDINGS)
    assert got == ["a.png", "a.jpg", "b/a", "A.tif", "c.x"]


NAMES = st.lists(
    st.text("aA._-/\\é~", min_size=1, max_size=8).map(lambda s: f"{s}.png")
    | st.sampled_from(
        [
            *("a.png", "a.jpg", "A.png", "a.png.png", "a_overlay.jpg", "a_overlay.png"),
            *(
                "boxes.json.png",
                "boxes.json/a.png",
                "a.png/b.jpg",
                "a/b.png",
                "a.png-2",
            ),
            *("../a.png", "/a.png", "a/../../b.png", "..", "a_contours_overlay.png"),
        ]
    ),
    max_size=12,
)


@settings(max_examples=100, deadline=None)
@given(NAMES, st.data())
@example(["a.mp4", "a/000000.png", "a.mp4/x.png"], None)
@example(["...mp4", "..mp4", "a.png"], None)
def test_outputs_stay_inside_and_apart(names, data):
    """Every file that will be written, frames of videos among them, is another one."""
    if data is None:
        folders = [name.endswith(".mp4") for name in names]
    else:
        folders = data.draw(
            st.lists(st.booleans(), min_size=len(names), max_size=len(names))
        )
    paths = [PurePosixPath(name) for name in names]
    got = inputs.output_names(paths, ENDINGS, folders)
    assert len(got) == len(names)
    written = ["boxes.json"]
    for name, folder in zip(got, folders, strict=True):
        stems = [f"{name}/{i:06d}" for i in range(2)] if folder else [name]
        written += [f"{stem}{end}.png" for stem in stems for end in ENDINGS]
    for path in written:
        assert os.path.normpath(path) == path and not os.path.isabs(path)
        assert ".." not in PurePosixPath(path).parts
    lower = [path.casefold() for path in written]
    assert len(set(lower)) == len(lower)
    # No file is where another's folder has to be.
    above = {str(p) for path in lower for p in PurePosixPath(path).parents}
    assert not above & set(lower)


def test_what_is_passed_over_is_told(tree):
    for name in ("a.HEIC", "b.heic", "c.dng", "notes.txt"):
        (tree / "photos" / name).touch()
    passed = found("photos")[1]
    assert passed == {".mp4": 1, ".heic": 2, ".dng": 1}
    assert inputs.advice(passed) == [
        "videos (1) are passed over; name them to label frames",
        "2 .heic, 1 .dng are not read; convert them to PNG or TIFF",
    ]
    (tree / "phone").mkdir()
    (tree / "phone" / "a.heic").touch()
    with pytest.raises(ValueError, match="no image in this folder .*; 1 .heic are not"):
        found("phone")
    with pytest.raises(ValueError, match="--output photos: is --input, too; write to"):
        found("photos", output="photos")
