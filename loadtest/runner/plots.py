"""The plots of the report. Without matplotlib the report has tables only."""

import os

from .cells import all_cells
from .proxies import NAMES

COLOURS = {"Radiant": "#d1495b", "Envoy": "#8d96a3", "HAProxy": "#2e5eaa", "NGINX": "#3f8f5f"}


def draw(results, directory, name):
    """Writes PNG files; their names by group of cells."""
    try:
        import matplotlib
    except ImportError:
        return {}
    matplotlib.use("Agg")
    images = {}
    for group, key, axis in (("cpu", "cpu_us", "CPU per request, us"),
                             ("latency", "added_p99", "added P99, ms"),
                             ("quota", "added_p99", "added P99 at half a CPU, ms"),
                             ("updates", "in_force_ms", "change in force after, ms")):
        file = f"{name}-{group}.png"
        if bars(results, group, key, axis, os.path.join(directory, file)):
            images.setdefault(group, []).append(file)
    for key, axis in (("cpu_us", "CPU per request, us"), ("idle_mib", "resident memory, MiB")):
        file = f"{name}-models-{key.split('_')[0]}.png"
        if lines(results, key, axis, os.path.join(directory, file)):
            images.setdefault("models", []).append(file)
    return images


def bars(results, group, key, axis, path):
    """Medians by cell and proxy with the range as a whisker."""
    import matplotlib.pyplot as plt

    rows = [c for c in all_cells() if c.group == group
            and any(results.values(c.name, name, key) for name in NAMES)]
    if not rows:
        return False
    figure, axes = plt.subplots(figsize=(9, 0.9 + 0.62 * len(rows)))
    for index, proxy in enumerate(NAMES):
        for row, cell in enumerate(rows):
            found = results.values(cell.name, proxy, key)
            if not found:
                continue
            middle = results.median(cell.name, proxy, key)
            axes.barh(row + 0.2 * index - 0.3, middle, 0.19, color=COLOURS[proxy],
                      label=proxy if row == next(
                          r for r, c in enumerate(rows) if results.values(c.name, proxy, key)) else None,
                      xerr=[[middle - min(found)], [max(found) - middle]],
                      error_kw={"elinewidth": 0.7, "ecolor": "#333333"})
    axes.set_yticks(range(len(rows)), [cell.title for cell in rows], fontsize=8)
    axes.invert_yaxis()
    axes.set_xlabel(axis)
    axes.set_xscale("symlog", linthresh=1)
    axes.legend(fontsize=8)
    axes.grid(axis="x", linewidth=0.3)
    figure.tight_layout()
    figure.savefig(path, dpi=110)
    plt.close(figure)
    return True


def lines(results, key, axis, path):
    """A value over the number of models."""
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(6, 4))
    drawn = False
    for proxy in NAMES:
        points = [(c.settings["models"], results.median(c.name, proxy, key))
                  for c in all_cells() if c.group == "models"]
        points = [(count, value) for count, value in points if value is not None]
        if points:
            drawn = True
            axes.plot(*zip(*points), marker="o", label=proxy, color=COLOURS[proxy])
    if drawn:
        axes.set_xscale("log")
        axes.set_yscale("log")
        axes.set_xlabel("models")
        axes.set_ylabel(axis)
        axes.legend(fontsize=8)
        axes.grid(linewidth=0.3)
        figure.tight_layout()
        figure.savefig(path, dpi=110)
    plt.close(figure)
    return drawn
