from __future__ import annotations

from pathlib import Path

import pytest

from lesionseg.errors import LesionsegError
from lesionseg.labels import Label, apply_labels, is_malignant, read_labels
from lesionseg.sources import Sample


def read(tmp_path: Path, text: str) -> dict[str, Label]:
    (tmp_path / "labels.csv").write_text(text)
    return read_labels([tmp_path / "labels.csv"])


def test_isic_2016_without_header(tmp_path: Path) -> None:
    assert read(tmp_path, "ISIC_0000000,benign\nISIC_0000002,malignant\n") == {
        "isic_0000000": Label("benign", False),
        "isic_0000002": Label("malignant", True),
    }


def test_isic_2016_test_part_with_numbers(tmp_path: Path) -> None:
    labels = read(tmp_path, "ISIC_0000003,0.0\nISIC_0000012,1.0\n")
    assert [label.malignant for label in labels.values()] == [False, True]


def test_isic_2017(tmp_path: Path) -> None:
    text = "image_id,melanoma,seborrheic_keratosis\nISIC_0,0.0,0.0\nISIC_1,1.0,0.0\nISIC_2,0.0,1.0\n"
    assert read(tmp_path, text) == {
        "isic_0": Label("nevus", False),
        "isic_1": Label("melanoma", True),
        "isic_2": Label("seborrheic keratosis", False),
    }
    assert read(tmp_path, "image_id,melanoma\nISIC_0,0.0\n") == {"isic_0": Label("benign", False)}


def test_isic_2018_one_hot(tmp_path: Path) -> None:
    text = "image,MEL,NV,BCC,AKIEC,BKL,DF,VASC\nISIC_1,0.0,1.0,0.0,0.0,0.0,0.0,0.0\nISIC_2,0,0,1,0,0,0,0\n"
    assert read(tmp_path, text) == {
        "isic_1": Label("nevus", False),
        "isic_2": Label("basal cell carcinoma", True),
    }
    with pytest.raises(
        LesionsegError, match=r"labels.csv, row 2: expected one class marked 1, found mel, nv"
    ):
        read(tmp_path, "image,MEL,NV\nISIC_1,1,1\n")


def test_isic_2019_unknown_class(tmp_path: Path) -> None:
    assert read(tmp_path, "image,MEL,NV,AK,SCC,UNK\nISIC_1,0,0,0,0,1\n") == {"isic_1": Label()}


def test_ham10000(tmp_path: Path) -> None:
    header = "lesion_id,image_id,dx,dx_type,age,sex,localization\n"
    assert read(tmp_path, header + "HAM_1,ISIC_0027419,bkl,histo,80.0,male,scalp\n") == {
        "isic_0027419": Label("benign keratosis", False, lesion="HAM_1")
    }


def test_isic_archive_new_and_old(tmp_path: Path) -> None:
    text = (
        "isic_id,diagnosis_1,diagnosis_2,diagnosis_3,lesion_id,patient_id\n"
        "ISIC_1,Benign,Benign melanocytic proliferations,Nevus,IL_1,IP_1\n"
        "ISIC_2,Malignant,Malignant melanocytic proliferations (Melanoma),Melanoma in situ,IL_2,\n"
        "ISIC_3,Indeterminate,Indeterminate epidermal proliferations,,,\n"
        "ISIC_4,Benign,,,,\n"
    )
    assert read(tmp_path, text) == {
        "isic_1": Label("nevus", False, "IL_1", "IP_1"),
        "isic_2": Label("melanoma in situ", True, "IL_2"),
        "isic_3": Label("indeterminate epidermal proliferations", None),
        "isic_4": Label("benign", False),
    }
    old = "isic_id,diagnosis,benign_malignant\nISIC_1,nevus,benign\nISIC_2,,malignant\n"
    assert read(tmp_path, old) == {"isic_1": Label("nevus", False), "isic_2": Label("malignant", True)}


def test_own_file_semicolons_bom_and_file_names(tmp_path: Path) -> None:
    assert read(tmp_path, "\ufefffile;diagnosis;patient_id\nsub/A.JPG;MEL;p1\n") == {
        "a": Label("melanoma", True, patient="p1")
    }


def test_several_files_complete_each_other_or_contradict(tmp_path: Path) -> None:
    (tmp_path / "dx.csv").write_text("image_id,dx\nISIC_1,mel\n")
    (tmp_path / "lesions.csv").write_text("image_id,lesion_id\nISIC_1,L1\n")
    (tmp_path / "other.csv").write_text("image_id,dx\nISIC_1,nv\n")
    labels = read_labels([tmp_path / "dx.csv", tmp_path / "lesions.csv"])
    assert labels == {"isic_1": Label("melanoma", True, lesion="L1")}
    with pytest.raises(
        LesionsegError, match=r"other.csv, row 2: contradicts .*isic_1: diagnosis 'nevus', elsewhere"
    ):
        read_labels([tmp_path / "dx.csv", tmp_path / "other.csv"])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "found the columns: none"),
        ("a,b\n1,2\n", "found the columns: a, b"),
        ("image_id,age\nISIC_1,2\n", "expected a label file"),
        ("image_id,dx\nISIC_1\n", "row 2: expected 2 cells, found 1"),
    ],
)
def test_files_that_are_no_labels(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(LesionsegError, match=message):
        read(tmp_path, text)
    with pytest.raises(LesionsegError, match=r"absent.csv"):
        read_labels([tmp_path / "absent.csv"])


def test_malignancy_of_names_that_are_not_listed_is_unknown() -> None:
    assert is_malignant("melanoma, nos") is True
    assert is_malignant("nevus, atypical") is False
    assert is_malignant("merkel cell carcinoma") is None


def test_apply_labels_groups_by_patient_even_through_a_lesion() -> None:
    samples = [Sample(name, Path(f"{name}.jpg"), None) for name in ("ISIC_1", "ISIC_2", "ISIC_3", "ISIC_4")]
    labels = {
        "isic_1": Label("nevus", False, lesion="L1", patient="P1"),
        "isic_2": Label("nevus", False, lesion="L1"),  # the same lesion, its patient left out
        "isic_3": Label("melanoma", True, lesion="L2"),
        "isic_9": Label("nevus", False),
    }
    labelled, unused = apply_labels(samples, labels)
    assert [sample.group for sample in labelled] == ["P1", "P1", "L2", None]
    assert [sample.diagnosis for sample in labelled] == ["nevus", "nevus", "melanoma", None]
    assert [sample.malignant for sample in labelled] == [False, False, True, None]
    assert unused == 1


def test_unknown_is_no_patient(tmp_path: Path) -> None:
    (tmp_path / "labels.csv").write_text(
        "image_id,diagnosis,patient_id\nISIC_0000001,nevus,Unknown\nISIC_0000002,nevus,IP_1\n"
    )
    labels = read_labels([tmp_path / "labels.csv"])
    assert [labels[name].patient for name in sorted(labels)] == [None, "IP_1"]
