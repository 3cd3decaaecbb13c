"""Test-time adaptation on all of CIFAR-10 under fifteen corruptions: one command, four runs.

python -m experiments.tta_claims --workdir=runs/tta_claims

Entropy methods on 10,000 images per corruption and mean teachers on 2,000, reset at each shift and
continual, three seeds. What is done is kept method by method and seed by seed: the same command
goes on where it stopped. Not run at full size here; hours are in docs/tta_images.md.
"""

from collections.abc import Sequence
from pathlib import Path

from experiments import tta_images
from jaxtrain.host import cli
from jaxtrain.host.files import write_text
from jaxtrain.host.settings import size

_ENTROPY = ("data.num_images", "batch_size", "fisher.num_images")
_TEACHERS = ("data.num_images", "batch_size", "clean.num_images", "method.rmt.warm_up_images")
# Variant -> the numbers of images that --images sets.
RUNS = {
    "cifar10_c": _ENTROPY,
    "cifar10_c_continual": _ENTROPY,
    "cifar10_c_teachers": _TEACHERS,
    "cifar10_c_teachers_continual": _TEACHERS,
}


def run(command: cli.Command) -> None:
    """Runs or resumes every variant in a folder of its own, and leaves all tables in one file."""
    if not command.flags["workdir"]:
        raise cli.UsageError("--workdir names no folder")
    folder, number = Path(command.flags["workdir"]), command.flags["images"]
    chosen = list(filter(None, command.flags["variants"].split(","))) or list(RUNS)
    for name in chosen:
        if name not in RUNS:
            raise cli.UsageError(f"--variants: {name!r} is unknown; they are {', '.join(RUNS)}")
    for name in chosen:
        argv = [f"--config=configs/tta_images.py:{name}", f"--workdir={folder / name}"]
        fewer = [f"--config.{key}={number}" for key in RUNS[name]] if number else []
        tta_images.main(argv=argv + fewer)
    files = [folder / name / "evaluation" / "table.txt" for name in RUNS]
    tables = [file.read_text(encoding="utf-8") for file in files if file.is_file()]
    write_text(folder / "tables.txt", "\n".join(tables))
    print(f"\nall tables: {folder / 'tables.txt'}")


def main(arguments: Sequence[str] | None = None) -> None:
    """Entry point; `arguments` as on the command line."""
    cli.tool(
        run,
        flags=(
            cli.define_string("workdir", "runs/tta_claims", "where the runs go"),
            cli.define_string("variants", "", "comma-separated runs, all when empty"),
            cli.define_number(
                "images", size(0, 0), "for a trial: of the test, a batch and the source; 0 for all"
            ),
        ),
        argv=arguments,
    )


if __name__ == "__main__":
    main()
