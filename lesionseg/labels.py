"""Read diagnosis and lesion or patient from the label files published with ISIC data sets.

Recognised by their columns: ISIC 2016 part 3 (no header: id, benign/malignant), ISIC 2017 part 3 (image_id, melanoma,
seborrheic_keratosis), ISIC 2018 task 3 and 2019 (one column a class, 0/1), HAM10000_metadata.csv (image_id, lesion_id, dx),
metadata of the ISIC archive (isic_id, diagnosis or diagnosis_1 to _5, benign_malignant, lesion_id, patient_id), and any CSV with
an id column and some of: diagnosis, dx, label, class, benign_malignant, lesion_id, patient_id, group.
"""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path

from lesionseg.errors import LesionsegError
from lesionseg.images import IMAGE_SUFFIXES
from lesionseg.sources import Sample

# Short names of ISIC 2018/2019 and HAM10000. The order is that of the categories of a prepared data set.
DIAGNOSES = {
    "nv": "nevus",
    "mel": "melanoma",
    "bcc": "basal cell carcinoma",
    "scc": "squamous cell carcinoma",
    "akiec": "actinic keratosis",
    "ak": "actinic keratosis",
    "sk": "seborrheic keratosis",
    "bkl": "benign keratosis",
    "df": "dermatofibroma",
    "vasc": "vascular lesion",
}
# "akiec" holds actinic keratoses and intraepithelial carcinoma (Bowen's disease), which Tschandl et al., "The HAM10000 dataset",
# Sci Data 5:180161 (2018), describe as non-invasive variants of squamous cell carcinoma: counted as malignant here.
MALIGNANT = ("melanoma", "basal cell carcinoma", "squamous cell carcinoma", "actinic keratosis", "malignant")
BENIGN = ("nevus", "seborrheic keratosis", "benign keratosis", "dermatofibroma", "vascular lesion", "benign")
_UNKNOWN = {"", "unk", "unknown", "nan", "na", "n/a", "none"}

_ID_COLUMNS = ("isic_id", "image_id", "image", "image_name", "id", "file_name", "filename", "file", "name")
_DIAGNOSIS_COLUMNS = ("dx", "diagnosis", "label", "class")
# The archive's levels run from general (1: Benign) to special (5); the third is the one that names the disease.
_ARCHIVE_LEVELS = ("diagnosis_3", "diagnosis_2", "diagnosis_1")
_GROUP_COLUMNS = ("patient_id", "lesion_id", "group")


@dataclass(frozen=True)
class Label:
    """What a label file says of one image; None where it says nothing."""

    diagnosis: str | None = None
    malignant: bool | None = None
    lesion: str | None = None
    patient: str | None = None


def canonical_diagnosis(text: str) -> str | None:
    """Lower case, short names written out (MEL: melanoma), None for unknown."""
    text = re.sub(r"[\s_]+", " ", text.strip().lower())
    return None if text in _UNKNOWN else DIAGNOSES.get(text, text)


def is_malignant(diagnosis: str) -> bool | None:
    """By ``MALIGNANT`` and ``BENIGN``, also for longer names that begin so ("melanoma in situ"); None for any other."""
    if diagnosis.startswith(MALIGNANT):
        return True
    return False if diagnosis.startswith(BENIGN) else None


def _known(text: str | None) -> str | None:
    """A lesion's or patient's name; None for the words that stand for none, which else would be one patient."""
    return text if text and text.strip().lower() not in _UNKNOWN else None


def _truth(text: str) -> bool | None:
    """0/1 cells, also written 0.0 and 1.0; None for anything else."""
    return {"0": False, "0.0": False, "1": True, "1.0": True}.get(text.strip())


def _malignancy(text: str) -> bool | None:
    """Archive columns: "benign", "malignant"; everything else (indeterminate) is unknown."""
    return {"benign": False, "malignant": True}.get(text.strip().lower(), _truth(text))


def _image_id(text: str) -> str:
    name = text.strip().replace("\\", "/").rsplit("/", 1)[-1]
    stem, dot, suffix = name.rpartition(".")
    return (stem if dot and f".{suffix.lower()}" in IMAGE_SUFFIXES else name).casefold()


def _one_hot_columns(columns: Iterable[str]) -> list[str]:
    return [column for column in columns if column in DIAGNOSES or column == "unk"]


def _parse_row(row: dict[str, str]) -> Label:
    """One row of a file with header; columns are lower case."""
    diagnosis = malignant = None
    one_hot = _one_hot_columns(row)
    if "melanoma" in row:  # ISIC 2017: what is neither is a nevus
        if _truth(row["melanoma"]):
            diagnosis = "melanoma"
        elif _truth(row.get("seborrheic_keratosis", "")):
            diagnosis = "seborrheic keratosis"
        elif _truth(row["melanoma"]) is False:
            # Without the second column only this much is known: its other classes are both benign.
            diagnosis = "nevus" if "seborrheic_keratosis" in row else "benign"
    elif len(one_hot) > 1:
        marked = [column for column in one_hot if _truth(row[column])]
        if len(marked) > 1:
            raise ValueError(f"expected one class marked 1, found {', '.join(marked)}")
        diagnosis = canonical_diagnosis(marked[0]) if marked else None
    else:
        columns = [*_DIAGNOSIS_COLUMNS, *_ARCHIVE_LEVELS]
        values = [canonical_diagnosis(row[column]) for column in columns if column in row]
        diagnosis = next((value for value in values if value), None)
    for column in ("benign_malignant", "diagnosis_1"):
        if malignant is None and column in row:
            malignant = _malignancy(row[column])
    if diagnosis is None and malignant is not None:
        diagnosis = "malignant" if malignant else "benign"
    if malignant is None and diagnosis is not None and not row.get("diagnosis_1"):
        malignant = is_malignant(diagnosis)
    return Label(
        diagnosis,
        malignant,
        _known(row.get("lesion_id")) or _known(row.get("group")),
        _known(row.get("patient_id")),
    )


def _read_table(path: Path) -> list[tuple[int, str, Label]]:
    """(line number, image id, label) of every row of one file."""
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise LesionsegError(
            f"{path}: expected a CSV label file in UTF-8, found: {error}. Check --labels."
        ) from error
    first = text.split("\n", 1)[0]
    delimiter = max(",;\t", key=first.count)
    try:
        rows = [
            row
            for row in csv.reader(io.StringIO(text, newline=""), delimiter=delimiter)
            if any(cell.strip() for cell in row)
        ]
    except csv.Error as error:
        raise LesionsegError(
            f"{path}: expected a CSV label file, found: {error}. Look for a quote that is not closed"
        ) from error
    if rows and len(rows[0]) == 2 and _malignancy(rows[0][1]) is not None:  # ISIC 2016 part 3
        rows.insert(0, ["image_id", "benign_malignant"])
    header = [cell.strip().lower() for cell in rows[0]] if rows else []
    id_column = next((column for column in _ID_COLUMNS if column in header), None)
    known = {"melanoma", "benign_malignant", *_DIAGNOSIS_COLUMNS, *_ARCHIVE_LEVELS, *_GROUP_COLUMNS}
    if id_column is None or not (known.intersection(header) or len(_one_hot_columns(header)) > 1):
        raise LesionsegError(
            f"{path}: expected a label file (an id column such as image_id or isic_id, and one of "
            f"{', '.join(sorted(known))}, or a column a class), found the columns: {', '.join(header) or 'none'}."
        )
    table = []
    for number, cells in enumerate(rows[1:], start=2):
        try:
            if len(cells) != len(header):
                raise ValueError(f"expected {len(header)} cells, found {len(cells)}")
            row = {name: cell.strip() for name, cell in zip(header, cells, strict=True)}
            table.append((number, _image_id(row[id_column]), _parse_row(row)))
        except ValueError as error:
            raise LesionsegError(f"{path}, row {number}: {error}. Correct the row or take it out.") from error
    return table


def _merge(old: Label, new: Label) -> Label:
    """Two rows of one image complete each other; ValueError where they disagree."""
    merged = {}
    for name, value in vars(old).items():
        other = getattr(new, name)
        if None not in (value, other) and value != other:
            raise ValueError(f"{name} '{other}', elsewhere '{value}'")
        merged[name] = other if value is None else value
    return Label(**merged)


def read_labels(paths: Iterable[Path]) -> dict[str, Label]:
    """Labels by image id (lower case) from one or several files.

    Raises LesionsegError for an unreadable file, unknown columns, a malformed row or rows that contradict each other.
    """
    labels: dict[str, Label] = {}
    for path in paths:
        for number, image_id, label in _read_table(Path(path)):
            try:
                labels[image_id] = _merge(labels.get(image_id, Label()), label)
            except ValueError as error:
                raise LesionsegError(
                    f"{path}, row {number}: contradicts another row of image {image_id}: {error}. "
                    "Correct the files, or give only the one to be trusted to --labels."
                ) from error
    return labels


def apply_labels(samples: Iterable[Sample], labels: dict[str, Label]) -> tuple[list[Sample], int]:
    """Samples with diagnosis, malignancy and group filled in, and how many labels have no image here.

    The group is the patient, or the lesion where no patient is known. A lesion whose patient is known from another
    picture counts as that patient's, so that pictures of one patient never part.
    """
    patient_of = {label.lesion: label.patient for label in labels.values() if label.lesion and label.patient}
    labelled, used = [], 0
    for sample in samples:
        label = labels.get(sample.id.casefold())
        if label is None:
            labelled.append(sample)
            continue
        used += 1
        patient = label.patient or (patient_of.get(label.lesion) if label.lesion else None)
        labelled.append(
            replace(
                sample, diagnosis=label.diagnosis, malignant=label.malignant, group=patient or label.lesion
            )
        )
    return labelled, len(labels) - used
