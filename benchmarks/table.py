"""The figures in results/MACHINE/*.json as tables in README.md, between its markers, and as results/MACHINE/chart.png.

python benchmarks/table.py [--results DIR] [--readme FILE]

Each machine has a section. A benchmark that has not run there is left out of its tables, and named below them.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib
from tabulate import tabulate

from lesionseg.errors import LesionsegError, run_tool
from lesionseg.images import atomic_write

matplotlib.use("Agg")
import matplotlib.pyplot as plt

HERE = Path(__file__).resolve().parent
BEGIN, END = "<!-- figures: written by table.py -->", "<!-- end of figures -->"
NAMES = ("data_prep", "train", "predict", "predict_r50", "runtimes", "peers", "profile")
DETECTRON2 = "detectron2 float32"  # the form in runtimes.json that others are compared with
COLOURS = {"float32": "#9aa5b1", "bf16": "#1f6f8b"}
Figures = dict[str, Any]


@dataclass(frozen=True)
class Comparison:
    """Ours against the usual way: rates in `unit` and what else is to be known."""

    what: str
    unit: str
    usual: float
    ours: float
    note: str = ""

    @property
    def ratio(self) -> float:
        return self.ours / self.usual


def comparisons(results: dict[str, Figures]) -> list[Comparison]:
    """One for every benchmark of two ways that has run."""
    found = []
    if figures := results.get("data_prep"):
        found.append(
            Comparison(
                f"data preparation, {figures['pairs']} photographs with masks",
                "pairs/s",
                figures["usual_pairs_per_s"],
                figures["prepare_pairs_per_s"],
                f"again, unchanged: {figures['second_run_s']:.2f} s",
            )
        )
    if figures := results.get("train"):
        for way, what in (
            ("reading", "training data as the network gets it"),
            ("loop", f"training, the whole loop, {figures['input_size'][0]} px"),
        ):
            rates = figures["images_per_second"][way]
            found.append(
                Comparison(
                    what,
                    "images/s",
                    rates["default_trainer"],
                    rates["lesionseg"],
                    f"batches of {figures['batch']}, originals against copies of {figures['max_size']} px",
                )
            )
    for figures in [results[name] for name in ("predict", "predict_r50") if name in results]:
        rates, dice = figures["images_per_second"], figures["dice"]
        random = "random weights: speed alone" if figures["weights"] == "random" else ""
        for way in [way for way in rates if way != "default_predictor"]:
            form = way.removeprefix("lesionseg").replace("_", " ").strip()
            found.append(
                Comparison(
                    f"prediction, {figures['images']} files to masks on disk, {figures['backbone']} at "
                    f"{figures['test_size']} px" + (f", exported: {form}" if form else ""),
                    "images/s",
                    rates["default_predictor"],
                    rates[way],
                    f"Dice {dice['default_predictor']:.4f}, then {dice[way]:.4f}" if dice else random,
                )
            )
    if figures := results.get("runtimes"):
        rates = all_core_rates(figures)
        best = max(rates, key=lambda way: rates[way])
        found.append(
            Comparison(
                f"network alone, fastest form ({best}), {figures['backbone']} at {figures['test_size']} px",
                "images/s",
                rates[DETECTRON2],
                rates[best],
                f"Dice {figures['dice'][DETECTRON2]:.4f}, then {figures['dice'][best]:.4f}"
                if figures["dice"]
                else "",
            )
        )
    return found


def all_core_rates(figures: Figures) -> dict[str, float]:
    """Images per second of every form of the network in runtimes.json, on all cores."""
    rates = figures["rates"][f"{figures['all_cores']} cores"]
    return {way: rate for way, rate in rates.items() if not way.startswith("ratio")}


def comparison_table(found: Sequence[Comparison]) -> str:
    return "### Against the usual way\n\n" + markdown(
        ["what", "unit", "usual", "lesionseg", "times as fast", ""],
        [[c.what, c.unit, f"{c.usual:.2f}", f"{c.ours:.2f}", f"{c.ratio:.1f}", c.note] for c in found],
    )


def runtimes_table(figures: Figures) -> str:
    whole, one = all_core_rates(figures), figures["rates"].get("1 cores", {})
    rows = [
        [
            way,
            f"{one[way]:.2f}" if one else "",
            f"{rate:.2f}",
            f"{rate / whole[DETECTRON2]:.1f}",
            f"{figures['dice'][way]:.4f}" if figures["dice"] else "",
        ]
        for way, rate in whole.items()
    ]
    headers = ["form", "images/s, one core", f"images/s, {figures['all_cores']} cores", "ratio", "Dice"]
    title = f"### One network, many forms: {figures['backbone']} at {figures['test_size']} px, {figures['images']} images"
    return f"{title}\n\n{markdown(headers, rows)}\n\nRatio: on all cores, against {DETECTRON2}."


def peers_table(figures: Figures) -> str:
    rows = [
        [
            peer["name"],
            peer["precision"],
            f"{peer['images_per_second']:.2f}",
            f"{peer['processor_seconds_an_image']:.2f}",
            f"{peer['ratio']:.2f}",
            f"{peer['parameters_million']:.1f}",
            f"{figures['gmac'][peer['name']]:.0f}",
        ]
        for peer in figures["peers"]
    ]
    headers = ["model", "precision", "images/s", "processor s", "ratio", "parameters (million)", "GMAC"]
    left_out = "".join(f"\n{name}: {why}.\n" for name, why in figures["left_out"].items())
    return (
        f"### Other models, one image at a time, {figures['shorter_side']} px\n\n{markdown(headers, rows)}\n\n"
        f"Ratio: against {figures['usual']} in float32. Random weights: speed alone.\n{left_out}"
    ).rstrip()


def profile_table(figures: Figures) -> str:
    """All runs against the peak, then the stages of the fastest one."""

    def where(run: Figures) -> str:
        return "GPU" if on_gpu(figures) else f"{run['cores']} core{'s' * (run['cores'] > 1)}"

    runs = [
        [
            where(run),
            run["precision"],
            f"{run['milliseconds']:.0f}",
            f"{run['limit_milliseconds']:.0f}",
            f"{run['peak_gmac_per_second']:.0f}",
            f"{run['peak_share']:.0%}",
        ]
        for run in figures["runs"]
    ]
    fastest = min(figures["runs"], key=lambda run: run["milliseconds"])
    stages = [
        [
            s["stage"],
            f"{s['milliseconds']:.0f}",
            f"{s['share']:.0%}",
            f"{s['gmac']:.1f}",
            f"{s['peak_share']:.0%}",
        ]
        for s in fastest["stages"]
    ]
    operators = ", ".join(
        f"`{o['operator'].removeprefix('aten::')}` {o['share']:.0%}"
        for o in figures["top_operators"][fastest["precision"]][:6]
    )
    gmac = figures["runs"][0]["gmac"]
    return (
        f"### Where the time goes: one image of {gmac:.0f} GMAC\n\n"
        + markdown(["on", "precision", "ms", "ms at the peak", "peak, GMAC/s", "of the peak"], runs)
        + f"\n\nOn {where(fastest)}, in {fastest['precision']}:\n\n"
        + markdown(["stage", "ms", "share", "GMAC", "of the peak"], stages)
        + f"\n\nOperators by one core's time, {fastest['precision']}: {operators}."
    )


def markdown(headers: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    return tabulate(rows, headers, tablefmt="pipe", disable_numparse=True)


def on_gpu(figures: Figures) -> bool:
    return figures.get("device", "cpu") != "cpu"


def newest_machine(results: dict[str, Figures]) -> Figures:
    """What the newest result says of the machine."""
    return max((figures["machine"] for figures in results.values()), key=lambda machine: machine["date"])


def machine_title(results: dict[str, Figures]) -> str:
    """The GPU where one was used, or processor and cores; `common.machine_folder` parts results likewise."""
    facts = newest_machine(results)
    used = any(map(on_gpu, results.values()))
    return facts["gpu"] if used else f"{facts['processor']}, {facts['cores']} cores"


def machine_line(results: dict[str, Figures]) -> str:
    """The machine of the newest result in words."""
    facts = newest_machine(results)
    instructions = ", ".join(facts["instructions"]) or "instruction set unknown"
    versions = ", ".join(f"{name} {found}" for name, found in facts["versions"].items())
    return (
        f"{facts['date']}; {facts['processor']} ({instructions}), {facts['cores']} cores, {facts['ram_gib']} GiB, "
        f"{facts['gpu'] or 'no GPU'}; {facts['system']}; Python {facts['python']}, {versions}, "
        f"Detectron2 {facts['detectron2']}."
    )


def section(results: dict[str, Figures], chart: str) -> str:
    """All tables of one machine; `chart` is the path of its chart."""
    parts = [f"## {machine_title(results)}", machine_line(results), f"![chart]({chart})"]
    if found := comparisons(results):
        parts.append(comparison_table(found))
    if "runtimes" in results:
        parts.append(runtimes_table(results["runtimes"]))
    if "peers" in results:
        parts.append(peers_table(results["peers"]))
    if "profile" in results:
        parts.append(profile_table(results["profile"]))
    if missing := [name for name in NAMES if name not in results]:
        parts.append(f"Not run here: {', '.join(missing)}.")
    return "\n\n".join(parts)


def put_between_markers(readme: Path, content: str) -> None:
    """Raises LesionsegError where the file has no markers."""
    before, begin, rest = readme.read_text().partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise LesionsegError(f"{readme}: expected the lines {BEGIN} and {END}, found no such pair")
    with atomic_write(readme) as temporary:
        temporary.write_text(f"{before}{BEGIN}\n\n{content}\n\n{END}{after}")


def draw_chart(results: dict[str, Figures], path: Path) -> None:
    """Above, ratios to the usual way; below, images per second of the other models."""
    found, peers = comparisons(results), results.get("peers", {}).get("peers", [])
    heights = [len(found) + 1.5, len(peers) + 1.5]
    figure, (above, below) = plt.subplots(
        2, 1, figsize=(9, 0.36 * sum(heights) + 1), height_ratios=heights, layout="constrained"
    )
    bars(above, [c.what for c in found], [c.ratio for c in found], "#4c7a34", "{:.1f} x")
    above.axvline(1, color="black", linewidth=0.8)
    above.set_title("lesionseg: times as fast as the usual way", loc="left", fontsize=10)
    labels = [f"{peer['name']}, {peer['precision']}" for peer in peers]
    colours = [COLOURS[peer["precision"]] for peer in peers]
    bars(below, labels, [peer["images_per_second"] for peer in peers], colours, "{:.2f}")
    below.set_title("images per second, one at a time", loc="left", fontsize=10)
    with atomic_write(path) as temporary:
        figure.savefig(temporary, dpi=130)
    plt.close(figure)


def bars(axes: Any, labels: Sequence[str], values: Sequence[float], colour: Any, form: str) -> None:
    """Horizontal bars, first on top, each with its number."""
    drawn = axes.barh(range(len(values)), values, color=colour, height=0.7)
    axes.bar_label(drawn, [form.format(value) for value in values], padding=3, fontsize=8)
    axes.set_yticks(range(len(labels)), labels, fontsize=8)
    axes.invert_yaxis()
    axes.margins(x=0.12)
    axes.tick_params(axis="x", labelsize=8)
    axes.spines[["top", "right"]].set_visible(False)


def write(results_folder: Path, readme: Path) -> None:
    """Tables and chart from the results that are there.

    Raises:
        LesionsegError: there are none, or the README has no markers.
    """
    sections = []
    for folder in sorted({file.parent for file in results_folder.glob("*/*.json")}):
        files = {name: folder / f"{name}.json" for name in NAMES}
        results = {name: json.loads(file.read_text()) for name, file in files.items() if file.is_file()}
        if results:
            draw_chart(results, folder / "chart.png")
            sections.append(section(results, f"{results_folder.name}/{folder.name}/chart.png"))
    if not sections:
        raise LesionsegError(
            f"{results_folder}: no results yet (expected MACHINE/{{{','.join(NAMES)}}}.json): run `make bench`"
        )
    put_between_markers(readme, "\n\n".join(sections))


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--results", type=Path, default=HERE / "results")
    parser.add_argument("--readme", type=Path, default=HERE / "README.md")
    args = parser.parse_args()
    write(args.results, args.readme)
    return 0


if __name__ == "__main__":
    run_tool(main)
