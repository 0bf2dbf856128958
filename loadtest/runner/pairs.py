"""Two builds of Radiant against each other: measured in turn, round by round, and
compared within each round, so that what the machine does meanwhile meets both."""

import statistics
import tempfile

from . import cells
from .machine import Failed
from .proxies import BASE

#: Which build goes first changes from round to round.
ORDER = ("Radiant", BASE)


def measure(tools, wanted, options):
    """Prints each cell's values and the median of their ratios; true if all rounds
    were valid."""
    found, valid = {}, True
    with tempfile.TemporaryDirectory(prefix="radiant-loadtest-") as directory:
        world = cells.World(tools, directory, options.seconds, options.latency_seconds)
        try:
            for number in range(options.rounds):
                for cell in wanted:
                    order = ORDER if number % 2 == 0 else ORDER[::-1]
                    pair = {}
                    for name in order:
                        try:
                            pair[name], errors = cell.measure(world, name, cell.settings)
                        except Failed as error:
                            errors = [str(error)]
                        if errors:
                            print(f"{cell.name} round {number + 1} {name}: {'; '.join(errors)}")
                            valid = False
                            break
                    else:
                        for key in pair[BASE]:
                            found.setdefault((cell.name, key), []).append(
                                (pair["Radiant"][key], pair[BASE][key]))
        finally:
            world.stop()
    print("| cell | value | Radiant | base | ratio (range) |\n|---|---|---|---|---|")
    for (cell, key), pairs in found.items():
        mine, base = (statistics.median(column) for column in zip(*pairs))
        ratios = [a / b for a, b in pairs if b]
        if ratios:
            print(f"| {cell} | {key} | {mine:.4g} | {base:.4g} | {statistics.median(ratios):.3f} "
                  f"({min(ratios):.3f} to {max(ratios):.3f}) |")
    return valid
