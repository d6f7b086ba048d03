"""The tool, end to end: on small made-up folders, and on real pairs of each set."""

from __future__ import annotations

import csv
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections import defaultdict
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from conftest import wait_for_end, worker_processes
from PIL import Image
from pycocotools.coco import COCO

from lesionseg import journal
from lesionseg.convert import ConvertOptions, Record, convert_sample
from lesionseg.errors import LesionsegError
from lesionseg.images import image_size, read_mask, write_image
from lesionseg.prepare import prepare
from lesionseg.prepared import PrepareOptions
from lesionseg.sources import Sample

ROOT = Path(__file__).parents[1]


def run_tool(*arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(ROOT / "tools" / "prepare_dataset.py"), *map(str, arguments)]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])}
    return subprocess.run(command, capture_output=True, text=True, env=environment, check=False, timeout=300)


def make_pairs(folder: Path, count: int, size: tuple[int, int] = (48, 64), first: int = 0) -> Path:
    """``count`` pairs x000, x001, ... of different random pictures, with discs of different size as lesions."""
    height, width = size
    y, x = np.ogrid[:height, :width]
    for number in range(first, first + count):
        small = np.random.default_rng(number).integers(40, 230, (6, 8, 3), dtype=np.uint8)
        picture = cv2.resize(small, (width, height), interpolation=cv2.INTER_CUBIC)
        write_image(folder / "images" / f"x{number:03}.jpg", picture)
        radius = 5 + number % 15
        write_image(
            folder / "masks" / f"x{number:03}.png",
            (y - height // 2) ** 2 + (x - width // 2) ** 2 <= radius**2,
        )
    return folder


def options(folder: Path, **changes: Any) -> PrepareOptions:
    made = PrepareOptions(images=folder / "images", masks=folder / "masks", out=folder / "out" / "set")
    return replace(made, **changes)


def read_csv(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def contents(folder: Path) -> dict[str, bytes]:
    files = (path for path in sorted(folder.rglob("*")) if path.is_file() and path.name != ".inputs")
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


def check_set(out: Path) -> dict[str, COCO]:
    """What must hold of every prepared set: each json agrees with pycocotools, the masks, the images and split.csv."""
    summary = json.loads((out / "summary.json").read_text())
    rows = {row["id"]: row for row in read_csv(out / "split.csv")}
    splits, seen = {}, []
    for part in summary["splits"]:
        coco = COCO(str(out / f"{part}.json"))
        root = out / coco.dataset["info"]["image_root"]
        assert [category["name"] for category in coco.dataset["categories"]] == summary["classes"]
        for image in coco.dataset["images"]:
            row = rows[image["sample_id"]]
            assert (row["file_name"], row["mask"]) == (image["file_name"], image["mask_file"])
            assert row["split"] == part or "fold" in part
            assert image_size(root / image["file_name"]) == (image["height"], image["width"])
            mask = read_mask(out / image["mask_file"])
            annotations = coco.imgToAnns[image["id"]]
            union = np.zeros_like(mask)
            for annotation in annotations:
                instance = coco.annToMask(annotation).astype(bool)
                union |= instance
                ys, xs = np.nonzero(instance)
                box = [xs.min(), ys.min(), xs.max() - xs.min() + 1, ys.max() - ys.min() + 1]
                assert annotation["bbox"] == box and annotation["area"] == instance.sum()
                assert annotation["iscrowd"] == 0 and annotation["group"] == image["group"]
                assert coco.cats[annotation["category_id"]]["name"] == row["category"]
            assert (union == mask).all()
            seen.append(image["sample_id"])
        assert summary["splits"][part]["images"] == len(coco.dataset["images"])
        assert summary["splits"][part]["instances"] == len(coco.dataset["annotations"])
        splits[part] = coco
    assert sorted(set(seen)) == sorted(rows) == [row["id"] for row in read_csv(out / "split.csv")]
    return splits


def test_tool_on_a_plain_folder(tmp_path: Path) -> None:
    make_pairs(tmp_path, 20)
    out = tmp_path / "datasets" / "mine"
    result = run_tool("--images", tmp_path / "images", "--masks", tmp_path / "masks", "--out", out)
    assert result.returncode == 0, result.stderr
    assert "mine_train: 16 images, 16 instances (16 lesion)" in result.stdout
    assert "mine_val: 4 images" in result.stdout and "tools/train_net.py" in result.stdout
    assert sorted(path.name for path in out.iterdir()) == [
        ".inputs", "problems.csv", "split.csv", "summary.json", "train.json", "val.json",
    ]  # fmt: skip
    splits = check_set(out)
    assert splits["train"].dataset["info"]["image_root"] == "../../images"
    assert [path.name for path in out.parent.iterdir()] == ["mine"]  # nothing temporary is left


def test_same_input_same_bytes_wherever_and_however_it_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_pairs(tmp_path / "one", 40)
    shutil.copytree(tmp_path / "one", tmp_path / "two")  # new times of change
    prepare(options(tmp_path / "one", max_size=32, workers=1))
    monkeypatch.setattr(journal, "_FEWEST_FOR_A_WORKER", 8)
    prepare(options(tmp_path / "two", max_size=32, workers=3))
    one, two = contents(tmp_path / "one" / "out"), contents(tmp_path / "two" / "out")
    assert len(one) == 40 * 2 + 5 and one == two
    prepare(options(tmp_path / "two", max_size=32, seed=7, overwrite=True))
    assert contents(tmp_path / "two" / "out")["set/split.csv"] != one["set/split.csv"]


def test_reduced_copies(tmp_path: Path) -> None:
    make_pairs(tmp_path, 6, size=(48, 64))
    summary = prepare(options(tmp_path, max_size=32))
    splits = check_set(tmp_path / "out" / "set")
    assert summary["width_px"]["max"] == 32 and summary["height_px"]["max"] == 24
    assert splits["train"].dataset["info"]["image_root"] == "images"
    shutil.rmtree(tmp_path / "images")  # the copies stand alone
    shutil.rmtree(tmp_path / "masks")
    check_set(tmp_path / "out" / "set")


def test_up_to_date_other_options_and_overwrite(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_pairs(tmp_path, 10)
    first = prepare(options(tmp_path))
    with monkeypatch.context() as patch:
        patch.setattr("lesionseg.prepare.convert_all", lambda *arguments: pytest.fail("worked again"))
        assert prepare(options(tmp_path)) == first
    with pytest.raises(LesionsegError, match=r"other options.*--overwrite"):
        prepare(options(tmp_path, seed=1))
    assert prepare(options(tmp_path, seed=1, overwrite=True))["seed"] == 1
    make_pairs(tmp_path, 1, first=99)
    with pytest.raises(LesionsegError, match="other files"):
        prepare(options(tmp_path, seed=1))


def test_folders_that_are_not_ours_are_left_alone(tmp_path: Path) -> None:
    make_pairs(tmp_path, 4)
    (tmp_path / "out" / "set").mkdir(parents=True)
    (tmp_path / "out" / "set" / "thesis.txt").write_text("precious")
    with pytest.raises(LesionsegError, match="found other files"):
        prepare(options(tmp_path, overwrite=True))
    for out in (tmp_path, tmp_path / "images", tmp_path / "masks" / "set"):
        with pytest.raises(LesionsegError, match="expected a folder apart from"):
            prepare(options(tmp_path, out=out, overwrite=True))
    assert (tmp_path / "out" / "set" / "thesis.txt").exists() and len(
        list((tmp_path / "images").iterdir())
    ) == 4


def break_some(folder: Path) -> None:
    """Pairs x000 to x007 each get an error, x008 a warning; x009 and later stay good. Also an orphan mask."""
    images, masks = folder / "images", folder / "masks"
    whole = (images / "x000.jpg").read_bytes()
    (images / "x000.jpg").write_bytes(whole[: len(whole) // 2])
    (images / "x001.jpg").write_text("no image")
    (masks / "x002.png").unlink()
    write_image(masks / "x003.png", np.ones((64, 48), bool))
    write_image(masks / "x004.png", np.zeros((48, 64), bool))
    shutil.copy(images / "x005.jpg", images / "x005.png")
    (images / "x006.jpg").rename(images / "x006;rm *.jpg")
    (masks / "x006.png").rename(masks / "x006;rm *.png")
    write_image(masks / "x007.png", np.tile(np.linspace(0, 255, 64).astype(np.uint8), (48, 1)))
    write_image(masks / "x008.png", np.ones((48, 64), bool))
    write_image(masks / "orphan.png", np.ones((48, 64), bool))


BROKEN = {
    ("error", "unreadable file", "x000.jpg"),
    ("error", "unreadable file", "x001.jpg"),
    ("error", "image without mask", "x002.jpg"),
    ("error", "sizes differ", "x003.png"),
    ("error", "empty mask", "x004.png"),
    ("error", "same id", "x005.jpg"),
    ("error", "unsafe file name", "x006;rm *.jpg"),
    ("error", "unsafe file name", "x006;rm *.png"),
    ("error", "not binary", "x007.png"),
    ("warning", "full-frame mask", "x008.png"),
    ("error", "mask without image", "orphan.png"),
}


def found_problems(path: Path) -> set[tuple[str, str, str]]:
    return {(row["level"], row["kind"], Path(row["file"].strip("'")).name) for row in read_csv(path)}


def test_every_problem_is_listed_at_once_and_nothing_is_written(tmp_path: Path) -> None:
    break_some(make_pairs(tmp_path, 16))
    arguments = [
        "--images",
        tmp_path / "images",
        "--masks",
        tmp_path / "masks",
        "--out",
        tmp_path / "out" / "set",
    ]
    result = run_tool(*arguments)
    assert result.returncode == 2 and "Traceback" not in result.stderr
    assert "error: 10 errors and 1 warnings" in result.stderr and "--on-error skip" in result.stderr
    for _, _, name in BROKEN:
        assert name in result.stderr
    assert not (tmp_path / "out" / "set").exists()
    assert found_problems(tmp_path / "out" / "set_problems.csv") == BROKEN

    result = run_tool(*arguments, "--on-error", "skip")
    assert result.returncode == 1 and "Traceback" not in result.stderr  # done, but not with everything
    out = tmp_path / "out" / "set"
    assert found_problems(out / "problems.csv") == BROKEN
    assert not (tmp_path / "out" / "set_problems.csv").exists()
    check_set(out)
    assert {row["id"] for row in read_csv(out / "split.csv")} == {f"x{number:03}" for number in range(8, 16)}
    assert json.loads((out / "summary.json").read_text())["skipped_images"] == 8


def test_skipped_files_leave_no_copies(tmp_path: Path) -> None:
    break_some(make_pairs(tmp_path, 16))
    prepare(options(tmp_path, max_size=40, on_error="skip"))
    out = tmp_path / "out" / "set"
    check_set(out)
    assert sorted(path.stem for path in (out / "images").iterdir()) == [
        f"x{number:03}" for number in range(8, 16)
    ]
    assert len(list((out / "masks").iterdir())) == 8


def test_all_broken(tmp_path: Path) -> None:
    make_pairs(tmp_path, 2)
    for path in (tmp_path / "masks").iterdir():
        write_image(path, np.zeros((48, 64), bool))
    with pytest.raises(LesionsegError, match="expected usable pairs, found none"):
        prepare(options(tmp_path, on_error="skip"))


def test_a_killed_run_continues(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_pairs(tmp_path, 30)
    real = journal.convert_sample
    converted: list[str] = []
    again: list[str] = []

    def convert_and_die(sample: Sample, options: ConvertOptions) -> Record:
        if len(converted) == 16:
            raise KeyboardInterrupt
        converted.append(sample.id)
        return real(sample, options)

    def convert_on(sample: Sample, options: ConvertOptions) -> Record:
        again.append(sample.id)
        return real(sample, options)

    monkeypatch.setattr(journal, "convert_sample", convert_and_die)
    with pytest.raises(KeyboardInterrupt):
        prepare(options(tmp_path, max_size=32))
    assert not (tmp_path / "out" / "set").exists()
    lines = tmp_path / "out" / ".set.partial" / "journal"
    lines.write_bytes(lines.read_bytes()[:-20])  # as if killed in the middle of a line
    monkeypatch.setattr(journal, "convert_sample", convert_on)
    prepare(options(tmp_path, max_size=32))
    assert len(again) == 30 - 15 and set(again) | set(converted) == {f"x{number:03}" for number in range(30)}
    continued = contents(tmp_path / "out")
    shutil.rmtree(tmp_path / "out")
    prepare(options(tmp_path, max_size=32))
    assert contents(tmp_path / "out") == continued


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="looks for processes in /proc")
def test_workers_end_with_a_killed_run(tmp_path: Path) -> None:
    large = make_pairs(tmp_path / "large", 4, (1500, 2000))
    for kind, suffix in (("images", ".jpg"), ("masks", ".png")):
        (tmp_path / kind).mkdir()
        for number in range(240):
            name = f"x{number % 4:03}{suffix}"
            (tmp_path / kind / f"y{number:03}{suffix}").symlink_to(large / kind / name)
    command = [sys.executable, ROOT / "tools" / "prepare_dataset.py", "--workers", "2"]
    command += [
        "--images",
        tmp_path / "images",
        "--masks",
        tmp_path / "masks",
        "--out",
        tmp_path / "out" / "set",
    ]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])}
    process = subprocess.Popen([*map(str, command)], env=environment, stderr=subprocess.DEVNULL)
    lines = tmp_path / "out" / ".set.partial" / "journal"
    while process.poll() is None and (not lines.exists() or lines.read_bytes().count(b"\n") < 10):
        time.sleep(0.02)
    workers = worker_processes(process.pid)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert len(workers) >= 2
    wait_for_end(workers)
    assert 9 <= lines.read_bytes().count(b"\n") - 1 < 240 and not (tmp_path / "out" / "set").exists()
    prepare(options(tmp_path, workers=1))
    assert len(read_csv(tmp_path / "out" / "set" / "split.csv")) == 240


def test_a_run_of_other_options_leaves_nothing_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_pairs(tmp_path, 10)
    with monkeypatch.context() as patch:
        patch.setattr("lesionseg.prepare._finish", lambda *arguments: 1 / 0)  # killed at the very end
        for unfinished in (options(tmp_path, max_size=32), options(tmp_path, split="0.6/0.2/0.2")):
            with pytest.raises(ZeroDivisionError):
                prepare(unfinished)
    prepare(options(tmp_path))
    assert sorted(contents(tmp_path / "out" / "set")) == [
        "problems.csv", "split.csv", "summary.json", "train.json", "val.json",
    ]  # fmt: skip


def test_folds(tmp_path: Path) -> None:
    make_pairs(tmp_path, 12)
    labels = tmp_path / "l.csv"
    labels.write_text("image,lesion_id\n" + "".join(f"x{number:03},L{number // 2}\n" for number in range(12)))
    summary = prepare(options(tmp_path, folds=3, labels=(labels,)))
    splits = check_set(tmp_path / "out" / "set")
    assert list(summary["splits"]) == [f"fold{k}_{part}" for k in range(3) for part in ("train", "val")]
    ids = {name: {image["sample_id"] for image in coco.dataset["images"]} for name, coco in splits.items()}
    everything = {f"x{number:03}" for number in range(12)}
    assert set.union(*(ids[f"fold{k}_val"] for k in range(3))) == everything
    groups = {row["id"]: row["group"] for row in read_csv(tmp_path / "out" / "set" / "split.csv")}
    for k in range(3):
        train, val = ids[f"fold{k}_train"], ids[f"fold{k}_val"]
        assert len(val) == 4 and train == everything - val
        assert not {groups[name] for name in train} & {groups[name] for name in val}
    with pytest.raises(LesionsegError, match="--folds"):
        prepare(options(tmp_path, folds=3, split="0.8/0.2", overwrite=True))


def test_a_file_that_changed_is_read_again(tmp_path: Path) -> None:
    make_pairs(tmp_path, 10)
    mask = tmp_path / "masks" / "x003.png"
    write_image(mask, np.zeros((48, 64), bool))
    with pytest.raises(LesionsegError, match="1 errors"):
        prepare(options(tmp_path))
    make_pairs(tmp_path, 1, first=3)
    prepare(options(tmp_path))
    check_set(tmp_path / "out" / "set")


def test_groups_duplicates_and_classes(tmp_path: Path) -> None:
    """Six lesions of several pictures; the last picture of lesion 0 is the first of lesion 1 once more."""
    make_pairs(tmp_path, 24)
    shutil.copy(tmp_path / "images" / "x003.jpg", tmp_path / "images" / "x004.jpg")
    rows = [f"HAM_{number // 4},x{number:03},{'mel' if number < 8 else 'nv'}" for number in range(24)]
    labels = tmp_path / "HAM10000_metadata.csv"
    labels.write_text("\n".join(["lesion_id,image_id,dx", *rows, "HAM_99,elsewhere,bcc"]) + "\n")
    summary = prepare(options(tmp_path, labels=(labels,), classes="diagnosis"))
    check_set(tmp_path / "out" / "set")
    assert summary["classes"] == ["nevus", "melanoma"] and summary["labels_without_image"] == 1
    assert summary["duplicates"] == {"groups": 1, "images": 2, "images_with_identical_file": 2}
    table = read_csv(tmp_path / "out" / "set" / "split.csv")
    sides = defaultdict(set)
    for row in table:
        sides[row["group"]].add(row["split"])
    assert all(len(side) == 1 for side in sides.values()) and sides["HAM_0"] == sides["HAM_1"]
    assert [row["id"] for row in table if row["duplicate_group"] == "x003"] == ["x003", "x004"]
    assert {row["category"] for row in table if row["group"] == "HAM_0"} == {"melanoma"}

    two = prepare(options(tmp_path, labels=(labels,), classes="benign-malignant", overwrite=True))
    assert two["classes"] == ["benign", "malignant"]


def test_missing_labels_are_errors_only_for_classes(tmp_path: Path) -> None:
    make_pairs(tmp_path, 6)
    labels = tmp_path / "l.csv"
    labels.write_text("image_id,dx\n" + "".join(f"x{number:03},nv\n" for number in range(5)))
    assert prepare(options(tmp_path, labels=(labels,)))["problems"] == {}
    with pytest.raises(LesionsegError, match="1 errors"):
        prepare(options(tmp_path, labels=(labels,), classes="diagnosis", overwrite=True))
    assert found_problems(tmp_path / "out" / "set_problems.csv") == {("error", "no label", "x005.jpg")}
    with pytest.raises(LesionsegError, match="--classes diagnosis: expected label files"):
        prepare(options(tmp_path, classes="diagnosis", overwrite=True))
    labels.write_text("image_id,dx\nISIC_1,nv\n")
    with pytest.raises(LesionsegError, match="expected rows for images such as x000"):
        prepare(options(tmp_path, labels=(labels,), overwrite=True))


def test_components_become_instances(tmp_path: Path) -> None:
    make_pairs(tmp_path, 4)
    mask = np.zeros((48, 64), bool)
    mask[5:15, 5:15] = mask[30:40, 30:50] = True
    write_image(tmp_path / "masks" / "x000.png", mask)
    summary = prepare(options(tmp_path, instances="components", min_area=20))
    check_set(tmp_path / "out" / "set")
    assert sum(part["instances"] for part in summary["splits"].values()) == 5
    assert summary["components"] == {"one": 3, "several": 1, "most": 2}


def test_official_folders_are_kept_and_leaks_reported(tmp_path: Path) -> None:
    for part, first, count in (("Training", 0, 6), ("Validation", 10, 2), ("Test", 20, 3)):
        made = make_pairs(tmp_path / "made" / part, count, first=first)
        for path in (made / "images").iterdir():
            name = f"ISIC_00{path.stem[1:]}"
            for kind, source, target in (
                ("Input", path, f"{name}.jpg"),
                ("GroundTruth", made / "masks" / f"{path.stem}.png", f"{name}_segmentation.png"),
            ):
                folder = tmp_path / "ISIC2018" / f"ISIC2018_Task1_{part}_{kind}"
                folder.mkdir(parents=True, exist_ok=True)
                shutil.copy(source, folder / target)
    folder = tmp_path / "ISIC2018"
    shutil.copy(
        folder / "ISIC2018_Task1_Training_Input" / "ISIC_00000.jpg",
        folder / "ISIC2018_Task1_Test_Input" / "ISIC_00020.jpg",
    )
    summary = prepare(options(tmp_path, images=folder, masks=folder))
    check_set(tmp_path / "out" / "set")
    assert {part: counts["images"] for part, counts in summary["splits"].items()} == {
        "train": 6,
        "val": 2,
        "test": 3,
    }
    assert summary["source_layout"] == "isic2018" and summary["problems"] == {"warning: on two sides": 1}
    (row,) = read_csv(tmp_path / "out" / "set" / "problems.csv")
    assert row["found"] == "ISIC_00000 in train, ISIC_00020 in test"


def test_wrong_options_are_explained(tmp_path: Path) -> None:
    make_pairs(tmp_path, 4)
    cases: list[tuple[list[str | Path], str]] = [
        (["--split", "0.8/0.3"], "--split 0.8/0.3: expected train/val"),
        (["--images", tmp_path / "nowhere"], "expected a folder, found nothing"),
        (["--labels", tmp_path / "nowhere.csv"], "nowhere.csv: expected a CSV file"),
        (["--name", "my set"], "--name my set: expected letters"),
    ]
    for wrong, message in cases:
        base = [
            "--images",
            tmp_path / "images",
            "--masks",
            tmp_path / "masks",
            "--out",
            tmp_path / "out" / "set",
        ]
        result = run_tool(*base, *wrong)
        assert result.returncode == 2 and message in result.stderr and "Traceback" not in result.stderr
    assert not (tmp_path / "out").exists()


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    make_pairs(tmp_path, 4)
    (tmp_path / "file").touch()
    with pytest.raises(LesionsegError, match=r"file.*: Not a directory"):
        prepare(options(tmp_path, out=tmp_path / "file" / "set"))


def test_names_that_are_no_utf_8_and_links_to_nowhere(tmp_path: Path) -> None:
    make_pairs(tmp_path, 6)
    (tmp_path / "images" / "x000.jpg").rename(tmp_path / "images" / os.fsdecode(b"x\xff.jpg"))
    (tmp_path / "masks" / "x000.png").rename(tmp_path / "masks" / os.fsdecode(b"x\xff.png"))
    (tmp_path / "images" / "x001.jpg").unlink()
    (tmp_path / "images" / "x001.jpg").symlink_to(tmp_path / "gone.jpg")
    arguments = [
        "--images",
        tmp_path / "images",
        "--masks",
        tmp_path / "masks",
        "--out",
        tmp_path / "out" / "set",
    ]
    result = run_tool(*arguments, "--on-error", "skip")
    assert result.returncode == 1 and "Traceback" not in result.stderr, result.stderr
    assert {row["kind"] for row in read_csv(tmp_path / "out" / "set" / "problems.csv")} == {
        "unsafe file name",
        "unreadable file",
    }
    assert len(read_csv(tmp_path / "out" / "set" / "split.csv")) == 4


def kill_or_convert(sample: Sample, options: ConvertOptions) -> Record:
    if sample.id == "x003":
        os.kill(os.getpid(), signal.SIGKILL)
    return convert_sample(sample, options)


def test_a_pair_that_kills_its_process_is_listed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As the system does for want of memory."""
    make_pairs(tmp_path, 16)
    monkeypatch.setattr(journal, "_FEWEST_FOR_A_WORKER", 4)
    monkeypatch.setattr(journal, "convert_sample", kill_or_convert)
    with pytest.raises(LesionsegError, match="1 errors"):
        prepare(options(tmp_path, workers=2))
    (row,) = read_csv(tmp_path / "out" / "set_problems.csv")
    assert (row["kind"], row["sample_id"]) == ("process died", "x003")
    monkeypatch.undo()  # more memory, say: the pair is read again, the others are known
    assert sum(part["images"] for part in prepare(options(tmp_path, workers=1))["splits"].values()) == 16


BUSY_PARENT = """
import sys
from pathlib import Path
import cv2, numpy as np, torch
from lesionseg.prepare import prepare
from lesionseg.prepared import PrepareOptions
torch.set_num_threads(4)
torch.ones((800, 800)) @ torch.ones((800, 800))
np.ones((800, 800)) @ np.ones((800, 800))
cv2.connectedComponentsWithStats(np.random.default_rng(0).integers(0, 2, (4000, 4000), dtype=np.uint8))
folder = Path(sys.argv[1])
summary = prepare(PrepareOptions(folder / "images", folder / "masks", folder / "out", max_size=32, workers=2))
print(sum(part["images"] for part in summary["splits"].values()))
"""


@pytest.mark.slow
def test_workers_of_a_process_with_threads(tmp_path: Path) -> None:
    """Its workers are copies without these threads: one that waited for them would stand still."""
    make_pairs(tmp_path, 80)
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])}
    environment.pop("OMP_NUM_THREADS", None)
    done = subprocess.run(
        [sys.executable, "-c", BUSY_PARENT, tmp_path],
        env=environment, capture_output=True, text=True, timeout=180, check=False,
    )  # fmt: skip
    assert done.stdout.split() == ["80"], done.stderr


REAL = [
    ("isic2018_task1_512", "isic2018", None, None),
    ("isic2017_originals", "isic2017", 640, "labels/ISIC-2017_Training_Part3_GroundTruth.csv"),
    ("ham10000_256", "ham10000", 128, "ham10000_256/HAM10000_metadata.csv"),
]


@pytest.mark.parametrize(("name", "layout", "max_size", "labels"), REAL)
def test_real_pairs(
    shared_data: Path, tmp_path: Path, name: str, layout: str, max_size: int | None, labels: str | None
) -> None:
    source = shared_data / name
    images = sorted((source / "images").iterdir())[:16]
    folder = tmp_path / ("ISIC_2017" if layout == "isic2017" else "ISIC2018")
    for image in images:
        for path in (image, source / "masks" / f"{image.stem}_segmentation.png"):
            target = folder / path.parent.name / path.name
            target.parent.mkdir(parents=True, exist_ok=True)
            target.symlink_to(path)
    summary = prepare(
        PrepareOptions(
            images=folder / "images",
            masks=folder / "masks",
            out=tmp_path / "out",
            max_size=max_size,
            labels=(shared_data / labels,) if labels else (),
            classes="benign-malignant" if labels else "lesion",
        )
    )
    splits = check_set(tmp_path / "out")
    assert summary["source_layout"] == layout
    assert sum(counts["images"] for counts in summary["splits"].values()) == 16
    if max_size:
        assert max(image["width"] for coco in splits.values() for image in coco.dataset["images"]) == max_size
    if layout == "ham10000":
        assert all(
            image["group"].startswith("HAM_") for coco in splits.values() for image in coco.dataset["images"]
        )
    for coco in splits.values():  # shares survive the reduction
        for image in coco.dataset["images"]:
            with Image.open(source / "masks" / f"{image['sample_id']}_segmentation.png") as original:
                share = float((np.asarray(original.convert("L")) > 128).mean())
            reduced = sum(annotation["area"] for annotation in coco.imgToAnns[image["id"]])
            assert abs(reduced / (image["width"] * image["height"]) - share) < 0.01
