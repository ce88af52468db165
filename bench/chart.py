"""Draw what came in at the provider, second by second: what was let through, what was a 429, and the quota.

Decides how a run looks on paper, and nothing about it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import matplotlib as mpl

mpl.use("Agg")
mpl.rcParams["svg.hashsalt"] = "post-purchase"  # the same run gives the same file

from matplotlib import pyplot as plt  # noqa: E402  # after the choice above

_BLUE, _RED, _AMBER, _GREY, _INK = "#1f5fa8", "#c0392b", "#d98200", "#6b6b6b", "#1c1c1c"


@dataclass(frozen=True, slots=True, kw_only=True)
class Panel:
    """One category of a run: at `seconds`, how many of the second before were let through and how many were not.

    `unanswered` are those that came in while the provider was down.

    `quota` is a list of (from second, requests a second); `marks` are moments with a word of what happened.
    """

    title: str
    seconds: Sequence[float]
    admitted: Sequence[int]
    throttled: Sequence[int]
    quota: Sequence[tuple[float, float]]
    unanswered: Sequence[int] = ()
    marks: Sequence[tuple[float, str]] = ()


def draw(panels: Sequence[Panel], *, title: str, note: str, file: Path) -> None:
    """Write the chart as PNG and SVG; `file` has no suffix."""
    figure, axes = plt.subplots(len(panels), 1, sharex=True, figsize=(10, 1.2 + 2.9 * len(panels)), squeeze=False)
    for axis, panel in zip(axes[:, 0], panels, strict=True):
        _fill(axis, panel)
    axes[-1, 0].set_xlabel("time since the first request (s)", color=_INK)
    figure.suptitle(title, x=0.02, ha="left", fontsize=13, fontweight="bold", color=_INK)
    figure.text(0.02, 0.008, note, ha="left", va="bottom", fontsize=8, color=_GREY)
    handles, names = axes[0, 0].get_legend_handles_labels()
    top = 1 - 0.42 / figure.get_figheight()
    figure.legend(
        handles, names, loc="upper left", bbox_to_anchor=(0.012, top), ncols=4, frameon=False, fontsize=9, borderpad=0
    )
    figure.tight_layout(rect=(0, 0.03, 1, top - 0.2 / figure.get_figheight()))
    figure.savefig(file.with_suffix(".png"), dpi=110, facecolor="white", metadata={"Software": None})
    figure.savefig(file.with_suffix(".svg"), facecolor="white", metadata={"Date": None, "Creator": None})
    plt.close(figure)


def _fill(axis: plt.Axes, panel: Panel) -> None:
    ends = panel.seconds[-1] if panel.seconds else 1.0
    starts = [begins for begins, _ in panel.quota]
    heights = [quota for _, quota in panel.quota]
    axis.step(
        [*starts, ends],
        [*heights, heights[-1]],
        where="post",
        color=_GREY,
        linestyle="--",
        linewidth=1.4,
        label="quota",
    )
    axis.plot(panel.seconds, panel.admitted, color=_BLUE, linewidth=1.4, label="let through, in the second before")
    axis.fill_between(
        panel.seconds, panel.throttled, color=_RED, alpha=0.85, linewidth=0.8, label="429, in the second before"
    )
    if panel.unanswered:
        axis.fill_between(
            panel.seconds,
            panel.unanswered,
            color=_AMBER,
            alpha=0.85,
            linewidth=0.8,
            label="not answered, or 503, in the second before",
        )
    highest = max([*heights, *panel.admitted, *panel.throttled, *panel.unanswered, 1]) * 1.25
    for number, (at, what) in enumerate(panel.marks):
        axis.axvline(at, color=_INK, linewidth=0.8, linestyle=":")
        axis.annotate(
            what,
            (at, highest),
            xytext=(3, -3 - 11 * (number % 2)),
            textcoords="offset points",
            va="top",
            fontsize=8,
            color=_INK,
        )
    axis.set_title(panel.title, loc="left", fontsize=10, color=_INK)
    axis.set_ylabel("requests a second", color=_INK)
    axis.set_ylim(0, highest)
    axis.set_xlim(0, ends)
    axis.grid(axis="y", color="#e3e3e3", linewidth=0.8)
    axis.set_axisbelow(True)
    for side in ("top", "right"):
        axis.spines[side].set_visible(False)
