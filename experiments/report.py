"""Tables and learning curves from run folders, with every trial, its mean and a 95 % interval.

Trials that differ only in their seed are averaged, whether they are rows of a sweep or runs of
their own. `schedule.png` shows the learning rates that the configs resolve to. Figures go to plots/
inside the run folder, or inside the common parent of several.
"""

import os
import sys
from pathlib import Path

from jaxtrain.host import cli, report, schedules


def run(command: cli.Command) -> None:
    """Prints the table and writes one figure per metric."""
    folders = [Path(folder) for folder in command.arguments]
    if not folders:
        raise cli.UsageError("give one or more run folders, such as runs/lpn_patterns-small-...")
    trials = []
    for folder in folders:
        try:
            trials += report.read_trials(folder)
        except cli.UsageError as error:
            if len(folders) == 1:
                raise
            print(f"left out: {error}", file=sys.stderr)
    if not trials:
        raise cli.UsageError(f"none of the {len(folders)} folders holds metrics")
    groups = report.group(trials)
    recorded = list(dict.fromkeys(name for one in groups for name in one.curves))
    wanted = list(filter(None, command.flags["metrics"].split(","))) or recorded
    for name in wanted:
        if name not in recorded:
            raise cli.UsageError(f"no metric {name!r}; the runs recorded {', '.join(recorded)}")
    print(report.table(groups, wanted))
    if command.flags["out"]:
        plots = Path(command.flags["out"])
    else:
        plots = Path(os.path.commonpath([folder.resolve() for folder in folders])) / "plots"
    for name in wanted:
        report.learning_curves(groups, name, plots / report.figure_name(name))
    resolved = {folder.name: schedules.read_schedule(folder) for folder in folders}
    known = {name: schedule for name, schedule in resolved.items() if schedule is not None}
    if known:
        report.schedule_curves(known, plots / "schedule.png")
    print(f"\n{len(wanted) + bool(known)} figures in {plots}")


if __name__ == "__main__":
    cli.tool(
        run,
        arguments="FOLDER...",
        flags=(
            cli.define_string("metrics", "", "comma-separated names of metrics; all when empty"),
            cli.define_string("out", "", "folder for the figures"),
        ),
    )
