"""One task of the user: solved, printed, and kept in a folder of its own inside the run."""

import sys
from collections.abc import Callable
from pathlib import Path

from ml_collections import ConfigDict

from experiments.data.arc import scoring
from experiments.lpn import arc_solving, figures, task_sets
from experiments.lpn.arc_evaluation import grouping, is_leader, solvers
from experiments.lpn.terminal import grid_text, takes_colour
from jaxtrain.host.experiment import Finished, Results
from jaxtrain.host.sweep import trials
from jaxtta.lpn import LPN


def folder_of(file: str) -> Path:
    """Where in a work folder the prediction of a task file goes."""
    return Path("predictions") / Path(file).stem


def prediction(config: ConfigDict, lpn: LPN, file: str) -> Callable[[Finished], Results]:
    """Solves one task file of the user with the last method of the config."""
    task, grouped = task_sets.own_task(config, file), grouping(config)
    name, solver = list(solvers(config, lpn).items())[-1]

    def predict(run: Finished) -> Results:
        if run.sweep is not None:
            print("--predict uses the first trial of the sweep")
        params, shape = trials(run.state.params, run.sweep)[0], {"group_size": run.mesh.size}
        solved = arc_solving.solve_set(solver, params, run.key, [task], run.mesh, **grouped | shape)
        if is_leader():
            folder = run.workdir / folder_of(file)
            folder.mkdir(parents=True, exist_ok=True)
            content = scoring.submission([task], solved.predictions)
            scoring.write_submission(folder / "prediction.json", content)
            figures.task_strips([task], solved.predictions, folder / "prediction.png")
            for i, pair in enumerate(solved.predictions[task.id]):
                for a, attempt in enumerate(pair):
                    print(f"test input {i + 1}, attempt {a + 1}:")
                    print(grid_text(attempt, colour=takes_colour(sys.stdout)))
            print(f"method {name}, score {solved.scores[0, 0]:.4f} on the demonstrations")
        return {
            "score": float(solved.scores[0, 0]),
            "demonstrations_reproduced": float(solved.exact[0]),
            "steps": float(solved.steps_used[0]),
        }

    return predict
