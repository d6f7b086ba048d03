"""What --input means."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest

from lesionseg.errors import LesionsegError
from lesionseg.inputs import JOURNAL, find_images


def touch(folder: Path, *names: str) -> None:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()


def names(*inputs: str | Path, output: Path | None = None) -> list[str]:
    return [item.file for item in find_images(inputs, output)]


def test_folder_is_searched_in_order_and_keeps_sub_folders(tmp_path: Path) -> None:
    touch(tmp_path, "b.JPG", "a.png", "sub/deep/c.tif", "notes.csv", ".hidden.png", ".cache/d.png")
    items = find_images([tmp_path])
    assert [item.file for item in items] == ["a.png", "b.JPG", "sub/deep/c.tif"]
    assert [item.name for item in items] == ["a", "b", "sub/deep/c"]
    assert [item.path for item in items] == [tmp_path / item.file for item in items]


def test_masks_and_superpixels_are_left_out_and_counted(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    touch(
        tmp_path, "ISIC_1.jpg", "ISIC_1_superpixels.png", "ISIC_1_segmentation.png", "ISIC_1_Segmentation.png"
    )
    touch(
        tmp_path, "IMD1/IMD1_Dermoscopic_Image/IMD1.bmp", "IMD1/IMD1_lesion/IMD1_lesion.bmp", "arm_lesion.jpg"
    )
    with caplog.at_level(logging.INFO):
        found = names(tmp_path)
    assert found == ["ISIC_1.jpg", "arm_lesion.jpg", "IMD1/IMD1_Dermoscopic_Image/IMD1.bmp"]
    assert "left out 4" in caplog.text


def test_results_are_not_read_again(tmp_path: Path) -> None:
    touch(tmp_path, "a.jpg", "out/overlay/a.jpg", "older/mask/a.png", f"older/{JOURNAL}")
    assert names(tmp_path, output=tmp_path / "out") == ["a.jpg"]
    assert names(tmp_path / "**/*.jpg", output=tmp_path / "out") == ["a.jpg"]
    with pytest.raises(LesionsegError, match="both --input and --output"):
        names(tmp_path, output=tmp_path)


def test_files_globs_and_repeats(tmp_path: Path) -> None:
    touch(tmp_path, "x/a.png", "x/y/b.png", "x/y/c.jpg", "x/y/d.txt")
    assert names(tmp_path / "x/y/b.png", tmp_path / "x/a.png") == ["b.png", "a.png"]
    assert names(tmp_path / "x/**/*.png") == ["a.png", "y/b.png"]
    assert names(str(tmp_path / "x") + "/*") == ["a.png", "y/b.png", "y/c.jpg"]
    assert names(tmp_path / "x/y", tmp_path / "x/y/b.png") == ["b.png", "c.jpg"]


def test_link_to_a_folder_above_ends(tmp_path: Path) -> None:
    touch(tmp_path, "sub/a.png")
    (tmp_path / "sub/up").symlink_to(tmp_path, target_is_directory=True)
    assert names(tmp_path) == ["sub/a.png"]


def test_list_file(tmp_path: Path) -> None:
    touch(tmp_path, "imgs/a.png", "imgs/sub/b.png", "far/c.png")
    listed = tmp_path / "imgs/list.txt"
    listed.write_text(f"# mine\nsub/b.png\n\na.png  # first visit\n../far/c.png\n{tmp_path}/far/c.png\n")
    assert names(listed) == ["sub/b.png", "a.png", "c.png"]
    listed.write_text("a.png\nnope.png\n")
    with pytest.raises(LesionsegError, match=r"lists 1 images.*\n  line 2: nope\.png"):
        names(listed)
    listed.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(LesionsegError, match="UTF-8"):
        names(listed)


def test_two_images_of_one_name_are_refused(tmp_path: Path) -> None:
    touch(tmp_path, "one/a.png", "one/a.jpg", "two/a.png")
    with pytest.raises(LesionsegError, match=r"one/a\.jpg and .*one/a\.png"):
        names(tmp_path / "one")
    with pytest.raises(LesionsegError, match=r"one/a\.png and .*two/a\.png"):
        names(tmp_path / "one/a.png", tmp_path / "two")
    for count, last in ((10, "9.png"), (12, "... and 2 more")):
        for folder in ("three", "four"):
            touch(tmp_path / folder, *(f"{number}.png" for number in range(count)))
        with pytest.raises(LesionsegError, match=f"^{count} pairs") as caught:
            names(tmp_path / "three", tmp_path / "four")
        lines = str(caught.value).splitlines()[1:]
        assert len(lines) == min(count, 11) and lines[-1].endswith(last)


def test_nothing_to_do_is_an_error(tmp_path: Path) -> None:
    touch(tmp_path, "a_segmentation.png", "b.csv")
    with pytest.raises(LesionsegError, match=r"no image in .*1 mask and superpixel"):
        names(tmp_path)
    with pytest.raises(LesionsegError, match="does not exist"):
        names(tmp_path / "nope")
    with pytest.raises(LesionsegError, match="no image"):
        names(tmp_path / "*.gif")
