"""Draw contestants beside one another: as groups of bars, or as bars of parts.

Decides how that looks on paper, and nothing about it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import matplotlib as mpl

mpl.use("Agg")
mpl.rcParams["svg.hashsalt"] = "post-purchase"  # the same run gives the same file

from matplotlib import pyplot as plt  # noqa: E402  # after the choice above
from matplotlib.axes import Axes  # noqa: E402  # the same
from matplotlib.figure import Figure  # noqa: E402  # the same

_COLOURS = ("#1f5fa8", "#7fb2e5", "#c0392b", "#6b6b6b")
_GREY, _INK = "#6b6b6b", "#1c1c1c"


def beside(
    names: Sequence[str],
    groups: Mapping[str, Sequence[float]],
    *,
    title: str,
    unit: str,
    note: str,
    file: Path,
) -> None:
    """Write a chart with a group of bars for each name, as PNG and SVG; `file` has no suffix."""
    figure, axis = _frame(len(names), title)
    height = 0.8 / max(1, len(groups))
    for number, (label, values) in enumerate(groups.items()):
        at = [place + number * height for place in range(len(names))]
        drawn = axis.barh(at, values, height=height * 0.92, color=_COLOURS[number % len(_COLOURS)], label=label)
        axis.bar_label(drawn, [f"{value:,.0f}" if value else "" for value in values], padding=3, fontsize=8)
    axis.set_yticks([place + 0.4 - height / 2 for place in range(len(names))], names)
    _write(figure, axis, unit=unit, note=note, file=file)


def stacked(
    names: Sequence[str],
    parts: Mapping[str, Sequence[float]],
    *,
    title: str,
    unit: str,
    note: str,
    file: Path,
) -> None:
    """Write a chart with one bar of parts for each name, as PNG and SVG; `file` has no suffix."""
    figure, axis = _frame(len(names), title)
    left = [0.0] * len(names)
    for number, (label, values) in enumerate(parts.items()):
        axis.barh(names, values, left=left, height=0.6, color=_COLOURS[number % len(_COLOURS)], label=label)
        left = [before + value for before, value in zip(left, values, strict=True)]
    for place, value in enumerate(left):
        axis.annotate(
            f"{value:.2f}", (value, place), xytext=(4, 0), textcoords="offset points", va="center", fontsize=8
        )
    _write(figure, axis, unit=unit, note=note, file=file)


def _frame(count: int, title: str) -> tuple[Figure, Axes]:
    figure, axis = plt.subplots(figsize=(10, 1.8 + 0.75 * count))
    axis.set_title(title, loc="left", fontsize=13, fontweight="bold", color=_INK)
    axis.invert_yaxis()

    return figure, axis


def _write(figure: Figure, axis: Axes, *, unit: str, note: str, file: Path) -> None:
    axis.set_xlabel(unit, color=_INK)
    axis.margins(x=0.08)
    axis.grid(axis="x", color="#e3e3e3", linewidth=0.8)
    axis.set_axisbelow(True)
    for side in ("top", "right", "left"):
        axis.spines[side].set_visible(False)
    axis.legend(frameon=False, fontsize=9, loc="lower right", bbox_to_anchor=(1.0, 1.0), ncols=4, borderpad=0)
    figure.text(0.02, 0.01, note, ha="left", va="bottom", fontsize=8, color=_GREY)
    figure.tight_layout(rect=(0, 0.03, 1, 1))
    figure.savefig(file.with_suffix(".png"), dpi=110, facecolor="white", metadata={"Software": None})
    figure.savefig(file.with_suffix(".svg"), facecolor="white", metadata={"Date": None, "Creator": None})
    plt.close(figure)
