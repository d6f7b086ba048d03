"""The whole of data preparation: folders in, a prepared data set out (``datasets/README.md`` says what is in it)."""

from __future__ import annotations

import hashlib
import json
import logging
import re
import shutil
from collections.abc import Mapping
from contextlib import closing
from dataclasses import asdict
from pathlib import Path
from typing import Any

from lesionseg import __version__
from lesionseg.convert import ConvertOptions, Record
from lesionseg.duplicates import duplicate_groups, duplicate_pairs
from lesionseg.errors import LesionsegError
from lesionseg.images import atomic_write
from lesionseg.journal import Journal, convert_all, file_state
from lesionseg.labels import apply_labels, read_labels
from lesionseg.prepared import (
    Prepared,
    PrepareOptions,
    categories_of,
    category_of,
    write_split,
    write_split_csv,
)
from lesionseg.sources import Listing, Sample, find_samples
from lesionseg.split import clusters_of, leaks, parse_split, split_into_folds, split_samples
from lesionseg.summary import summarise
from lesionseg.validate import Problem, check_listing, write_problems

logger = logging.getLogger(__name__)


def _check_options(options: PrepareOptions) -> None:
    images, masks, out = (path.resolve() for path in (options.images, options.masks, options.out))
    for option, folder in (("--images", images), ("--masks", masks)):
        if folder == out or folder in out.parents or out in folder.parents:
            raise LesionsegError(
                f"--out {options.out}: expected a folder apart from {option} {folder}, so that neither is read as the other. "
                "Choose another one, such as datasets/<name>."
            )
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_.-]*", options.dataset_name):
        raise LesionsegError(
            f"--name {options.dataset_name}: expected letters, digits, '_', '-' and '.', as it becomes the name in configs."
        )
    if options.folds and (options.folds < 2 or options.split):
        raise LesionsegError(
            "--folds: expected 2 or more, without --split: each fold is val once, and train otherwise."
        )
    for path in options.labels:
        if not path.is_file():
            raise LesionsegError(f"--labels {path}: expected a CSV file, found none. Check the path.")
    if options.classes != "lesion" and not options.labels:
        raise LesionsegError(
            f"--classes {options.classes}: expected label files. Name them with --labels CSV."
        )


def _key(options: PrepareOptions, listing: Listing) -> str:
    """Digest of all that the result depends on: version, options, and name, size and time of change of every file."""
    digest = hashlib.sha256()
    parts = {
        name: str(value.absolute() if isinstance(value, Path) else value)
        for name, value in asdict(options).items()
        if name not in ("labels", "overwrite", "workers")
    }
    digest.update(json.dumps([__version__, listing.layout, parts], sort_keys=True).encode())
    files = [path for sample in listing.samples for path in (sample.image, sample.mask) if path]
    doubles = [path for paths in listing.same_id for path in paths]
    for path in [*files, *listing.orphan_masks, *doubles, *options.labels]:
        digest.update(file_state(path.absolute()).encode(errors="surrogateescape"))
    return digest.hexdigest()


def _existing(options: PrepareOptions, key: str) -> dict[str, Any] | None:
    """Summary of a complete set made from the same input; None when there is none; LesionsegError when --out is taken."""
    out, summary = options.out, options.out / "summary.json"
    if summary.exists():
        if options.overwrite:
            return None
        if (out / ".inputs").exists() and (out / ".inputs").read_text() == key:
            found: dict[str, Any] = json.loads(summary.read_text())
            if missing := [part for part in found["splits"] if not (out / f"{part}.json").exists()]:
                raise LesionsegError(
                    f"--out {out}: {missing[0]}.json is missing from a finished data set. Give --overwrite to make it again."
                )
            return found
        raise LesionsegError(
            f"--out {out}: holds a data set made from other files or with other options. Give --overwrite to replace it, or another --out."
        )
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise LesionsegError(
            f"--out {out}: expected a new or empty folder, found other files. Choose another one."
        )
    return None


def _label_problems(samples: list[Sample], options: PrepareOptions) -> list[Problem]:
    remedy = "Add a row to the label file, leave the image out, or give --classes lesion"
    expected = f"a label that tells its {options.classes} in {', '.join(map(str, options.labels))}"
    return [
        Problem("error", "no label", str(sample.image), expected, "none", remedy, sample.id)
        for sample in samples
        if category_of(sample, options.classes) is None
    ]


def _stop_or_report(options: PrepareOptions, problems: list[Problem]) -> None:
    """Log what is wrong; with on_error stop, an error ends it here."""
    errors = [problem for problem in problems if problem.level == "error"]
    for problem in sorted(problems, key=lambda problem: (problem.level, problem.kind, problem.file))[:50]:
        logger.log(logging.ERROR if problem.level == "error" else logging.WARNING, "%s", problem)
    report = options.out.parent / f"{options.out.name}_problems.csv"
    if len(problems) > 50:
        logger.warning("... and %d more", len(problems) - 50)
    if errors and options.on_error == "stop":
        write_problems(report, problems)
        raise LesionsegError(
            f"{len(errors)} errors and {len(problems) - len(errors)} warnings in the data, all listed in {report}; nothing was prepared. "
            "Mend the files, or give --on-error skip to leave those with errors out. What was read stays known to the next run."
        )
    report.unlink(missing_ok=True)


def prepare(options: PrepareOptions) -> dict[str, Any]:
    """Prepare a data set; returns its summary, as in summary.json.

    Everything is built in a hidden folder beside ``options.out`` and moved there when complete. A run that was killed
    continues; a complete set made from the same files with the same options is left as it is.

    Raises LesionsegError for options that cannot be, and with ``on_error="stop"`` for data with errors, all of which
    are then in ``<out>_problems.csv``.
    """
    try:
        return _prepare(options)
    except OSError as error:
        raise LesionsegError(
            f"{error.filename or options.out}: {error.strerror or error}. Check permissions and free space on the disk, then run the "
            "same command again; what is done is kept."
        ) from error


def _prepare(options: PrepareOptions) -> dict[str, Any]:
    shares = parse_split(options.split) if options.split else None
    _check_options(options)
    listing = find_samples(options.images, options.masks, options.layout)
    if listing.ignored:
        logger.info(
            "no images, not looked at: %s",
            ", ".join(f"{n} {suffix}" for suffix, n in listing.ignored.items()),
        )
    key = _key(options, listing)
    if (existing := _existing(options, key)) is not None:
        logger.info("%s is up to date", options.out)
        return existing
    found, unused_labels = _labelled(listing, options)
    problems = check_listing(listing) + _label_problems(found, options)
    broken = {problem.sample_id for problem in problems}
    pairs = [sample for sample in found if sample.mask is not None and sample.id not in broken]
    building = options.out.parent / f".{options.out.name}.partial"
    convert = ConvertOptions(
        options.instances, options.min_area, options.max_size, building if options.max_size else None
    )
    with closing(Journal(building, f"{__version__} {convert}")) as journal:
        records = {
            record.sample_id: record for record in convert_all(pairs, convert, journal, options.workers)
        }
        problems += [problem for record in records.values() for problem in record.problems]
        _stop_or_report(options, problems)
        samples = [sample for sample in pairs if records[sample.id].usable]
        prepared = _group_and_split(listing.layout, samples, records, shares, options)
        problems += _leak_problems(prepared)
        for name, members in prepared.splits().items():
            write_split(building, name, members, prepared, journal, options)
    write_split_csv(building / "split.csv", prepared, options)
    write_problems(building / "problems.csv", problems)
    summary = summarise(prepared, options, problems, unused_labels)
    _finish(building, prepared, options, summary, key)
    return summary


def _labelled(listing: Listing, options: PrepareOptions) -> tuple[list[Sample], int]:
    """Samples with their labels, and how many labels have no image; LesionsegError when none has."""
    labels = read_labels(options.labels)
    samples, unused = apply_labels(listing.samples, labels)
    if labels and unused == len(labels):
        raise LesionsegError(
            f"--labels {options.labels[0]}: expected rows for images such as {samples[0].id}, found none in {unused} rows. Check the file."
        )
    return samples, unused


def _group_and_split(
    layout: str,
    samples: list[Sample],
    records: Mapping[str, Record],
    shares: Mapping[str, float] | None,
    options: PrepareOptions,
) -> Prepared:
    if not samples:
        raise LesionsegError(
            f"--images {options.images}: expected usable pairs, found none; all have errors (above)."
        )
    prints = [print_ for sample in samples if (print_ := records[sample.id].fingerprint) is not None]
    duplicates = duplicate_groups([sample.id for sample in samples], duplicate_pairs(prints))
    if options.folds:
        parts = split_into_folds(samples, duplicates, options.folds, options.seed)
    else:
        parts = split_samples(samples, duplicates, shares, options.seed)
    return Prepared(layout, samples, records, duplicates, parts, categories_of(samples, options.classes))


def _leak_problems(prepared: Prepared) -> list[Problem]:
    clusters = clusters_of(prepared.samples, prepared.duplicates)
    images = {sample.id: str(sample.image) for sample in prepared.samples}
    remedy = "Official folders are kept as given; leave one side out, or give all images in one folder for a split of your own"
    return [
        Problem(
            "warning",
            "on two sides",
            images[ids[0]],
            "pictures of one patient or lesion, and duplicates, on one side of the split",
            ", ".join(f"{member} in {prepared.parts[member]}" for member in ids),
            remedy,
            ids[0],
        )
        for ids in leaks(prepared.parts, clusters)
    ]


def _finish(
    building: Path, prepared: Prepared, options: PrepareOptions, summary: Mapping[str, Any], key: str
) -> None:
    """Remove what only the making needed, write summary.json last, and move the folder to its place."""
    if options.max_size:
        copies = [prepared.records[sample.id] for sample in prepared.samples]
        for folder, wanted in (
            ("images", {record.image_copy for record in copies}),
            ("masks", {record.mask_copy for record in copies}),
        ):
            for path in (building / folder).iterdir():  # of samples that turned out unusable
                if path.name not in wanted:
                    path.unlink()
    (building / "journal").unlink()
    (building / ".inputs").write_text(key)
    with atomic_write(building / "summary.json") as temporary:
        temporary.write_text(json.dumps(summary, indent=2) + "\n", encoding="ascii")
    if options.out.exists():
        replaced = building.with_name(f".{options.out.name}.replaced")
        shutil.rmtree(replaced, ignore_errors=True)
        options.out.replace(replaced)
        building.replace(options.out)
        shutil.rmtree(replaced)
    else:
        building.replace(options.out)
