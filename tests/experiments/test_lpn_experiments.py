"""The two experiments end to end: three steps, evaluation, files; then resume, predict, import."""

import importlib.util
import json

import jax
import numpy as np
import pytest

from experiments import lpn_arc, lpn_patterns
from experiments.data.arc import scoring
from experiments.data.arc.rearc_samples import RearcSamples
from experiments.lpn import arc_evaluation, task_sets
from experiments.lpn.settings import build_model
from experiments.lpn.weights import read
from jaxtrain.host.config import load
from tests.experiments.data.arc.test_task_batches import Listed

needs_rearc = pytest.mark.skipif(
    importlib.util.find_spec("reasoning_gym") is None, reason="needs the package reasoning-gym"
)


def run(module, spec, workdir, *flags):
    module.main(argv=[f"--config=configs/{spec}", f"--workdir={workdir}", *flags])


@pytest.fixture(scope="module")
def arc_run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("arc") / "run"
    run(lpn_arc, "lpn_arc.py:debug", folder)
    return folder


@pytest.fixture(scope="module")
def patterns_run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("patterns") / "run"
    run(lpn_patterns, "lpn_patterns.py:debug", folder)
    return folder


def test_patterns_train_evaluate_and_draw(patterns_run):
    lines = [json.loads(line) for line in (patterns_run / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [1, 2, 3, 3]
    final = json.loads((patterns_run / "summary.json").read_text())["final"]
    assert {"mean_accuracy", "ascent_2_accuracy"} <= final.keys()
    for name in ("accuracy_against_steps", "latents", "predictions"):
        assert (patterns_run / "plots" / f"{name}.png").stat().st_size > 1000


@pytest.mark.ci
def test_patterns_are_evaluated_again_with_the_same_numbers(patterns_run):
    """For all commands at once: tests/jaxtrain/host/test_experiment.py."""
    final = json.loads((patterns_run / "summary.json").read_text())["final"]
    run(lpn_patterns, "lpn_patterns.py:debug", patterns_run, "--mode=evaluate")
    assert json.loads((patterns_run / "summary.json").read_text())["final"] == final
    evaluated = json.loads((patterns_run / "evaluation" / "summary-evaluate.json").read_text())
    assert evaluated["final"] == final


@pytest.mark.ci
def test_accumulated_gradients_of_arc_are_those_of_the_large_batch():
    """With augmentation, noise and clipping; Adam's moments show the gradient of every number."""

    def updated(micro_batch, lengths):
        config, _ = load("configs/lpn_arc.py:debug,batch_size=8,data.num_pairs=2")
        config.micro_batch, config.data.lengths = micro_batch, lengths
        core = lpn_arc.core_of(config, build_model(config))
        batches = lpn_arc.batches_of(8, Listed(), (0, 1), 1, **lpn_arc.batching(config))
        state, update = jax.jit(core.init)(jax.random.key(0)), jax.jit(core.update)
        for step in range(2):
            state, output = update(state, batches.batch(step), jax.random.key(step))
        return state, output.metrics

    whole = updated(0, (9,))
    found = updated(3, (4, 9))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, 1e-4, 1e-6), found, whole)
    assert whole[1]["grad_norm"] > 1


@needs_rearc
def test_arc_ends_with_table_figures_submission_and_checkpoint(arc_run):
    name = "arcagi-training"
    for method in ("mean", "gradient_ascent"):
        content = json.loads((arc_run / f"submission-{name}-{method}.json").read_text())
        scoring.check_submission(content, {"25ff71a9": 2, "3c9b0459": 1})
        rows = (arc_run / "evaluation" / f"{name}-{method}.jsonl").read_text().splitlines()
        first = json.loads(rows[0])
        assert first["id"] == "25ff71a9" and len(first["attempts"][0]) == 2 and "solved" in first
        assert (arc_run / "plots" / f"{name}-{method}-tasks.png").stat().st_size > 1000
    table = (arc_run / "evaluation" / f"{name}-table.txt").read_text()
    assert all(rule in table for rule in scoring.RULES)
    assert (arc_run / "plots" / f"{name}-curve.png").exists()
    curve = json.loads((arc_run / "evaluation" / f"{name}-curve.json").read_text())
    assert [row["steps"] for row in curve] == [0, 2] and curve[0]["flops"] < curve[1]["flops"]
    assert (arc_run / f"plots/{name}-gradient_ascent-latents.png").exists()
    assert (arc_run / "checkpoints" / "3").is_dir()


@needs_rearc
def test_the_control_takes_demonstrations_of_another_generator(arc_run):
    config, _ = load("configs/lpn_arc.py:debug,evaluation.rearc_tasks=5")
    tasks = task_sets.held_out(config)()
    control = arc_evaluation.exchanged(tasks)
    owner = {id(task.train): task.id[:8] for task in tasks}
    for task, other in zip(tasks, control, strict=True):
        assert other.id == task.id and other.test is task.test
        assert owner[id(other.train)] != task.id[:8]
    assert arc_evaluation.exchanged(tasks[:1]) is None
    final = json.loads((arc_run / "summary.json").read_text())["final"]
    assert "arcagi-training/mean_shuffled/per_output/accuracy/top_1" in final


@needs_rearc
def test_arc_watches_held_out_samples_of_its_generators(arc_run):
    lines = [json.loads(line) for line in (arc_run / "metrics.jsonl").read_text().splitlines()]
    watched = [line for line in lines if "eval/rearc_mean_accuracy" in line]
    assert [line["step"] for line in watched] == [3]
    config, _ = load("configs/lpn_arc.py:debug")
    tasks = task_sets.held_out(config)()
    assert [task.id[8:] for task in tasks] == [".0", ".1"]
    with RearcSamples(
        task_sets.rearc_options(config), seed=config.seed, batch_size=4, depth=0
    ) as stream:
        trained = [pair for one in stream.samples(0) for pair in one.pairs()]
    first = tasks[0].test[0]
    assert not any(
        np.array_equal(first[0], given) and np.array_equal(first[1], output)
        for given, output in trained
    )


@needs_rearc
@pytest.mark.ci
def test_arc_evaluates_every_trial_of_a_sweep(tmp_path):
    sets = "--config.evaluation.sets=('rearc', 'arcagi:training')"
    run(lpn_arc, "lpn_arc.py:debug", tmp_path, "--sweep=seed=0:2", sets)
    final = json.loads((tmp_path / "summary.json").read_text())["final"]
    assert len(final["rearc/mean/per_output/accuracy/top_2"]["trials"]) == 2
    weights = [read(tmp_path / f"trial_{t}" / "weights.npz") for t in range(2)]
    name = "decoder/grid_logits_proj/kernel"
    assert not np.array_equal(weights[0][name], weights[1][name])
    for t in range(2):
        assert (tmp_path / f"trial_{t}" / "submission-arcagi-training-mean.json").exists()


@pytest.mark.ci
def test_arc_trains_on_a_folder_of_tasks(tmp_path, capsys):
    """Needs no generators; `tests/experiments/lpn/test_training_sets.py` has the parts."""
    pairs = [{"input": [[i, 1]], "output": [[1, i]]} for i in range(3)]
    task = {"train": pairs, "test": [{"input": [[7, 1]], "output": [[1, 7]]}]}
    (tmp_path / "tasks").mkdir()
    for name in ("mirror", "again"):
        (tmp_path / "tasks" / f"{name}.json").write_text(json.dumps(task))
    (tmp_path / "tasks" / "lone.json").write_text(json.dumps(task | {"train": pairs[:1]}))
    where = str(tmp_path / "tasks")
    own = (f"--config.data.tasks_dir={where}", f"--config.evaluation.sets=('{where}',)")
    flags = ("--config.evaluation.tasks=()", "--config.eval_every=0")
    run(lpn_arc, "lpn_arc.py:debug", tmp_path / "run", *own, *flags)
    assert "not trained on: " in capsys.readouterr().out
    assert (tmp_path / "run" / "weights.npz").is_file()


@needs_rearc
@pytest.mark.ci
def test_arc_predicts_a_users_task_with_exported_weights(arc_run, tmp_path, capsys):
    weights = arc_run / "weights.npz"
    assert "encoder/cls_token/embedding" in read(weights)
    task = tmp_path / "task.json"
    pair = {"input": [[1, 0], [0, 0]], "output": [[0, 0], [1, 0]]}
    task.write_text(json.dumps({"train": [pair, pair], "test": [{"input": [[2, 0], [0, 3]]}]}))
    flags = (f"--predict={task}", f"--config.init_from={weights}")
    run(lpn_arc, "lpn_arc.py:debug", tmp_path / "run", *flags)
    place = tmp_path / "run" / "predictions" / "task"
    written = json.loads((place / "prediction.json").read_text())
    grid = np.array(written["task"][0]["attempt_1"])
    assert grid.ndim == 2 and "attempt 1" in capsys.readouterr().out
    assert "score" in json.loads((place / "summary.json").read_text())["final"]
    assert not (tmp_path / "run" / "summary.json").exists()
    lpn_arc.main(argv=[f"--workdir={arc_run}", f"--predict={task}"])  # the same weights
    kept = arc_run / "predictions" / "task"
    assert json.loads((kept / "prediction.json").read_text()) == written
    assert (kept / "prediction.png").is_file()


@pytest.mark.parametrize(
    "content, sentence",
    [
        ('{"train": [', "not valid JSON|not JSON|JSON"),
        ('{"train": [], "test": []}', "demonstration"),
        (
            '{"train": [{"input": [[1], [1, 2]], "output": [[1]]}], "test": [{"input": [[1]]}]}',
            "row",
        ),
        (
            '{"train": [{"input": [[11]], "output": [[1]]}], "test": [{"input": [[1]]}]}',
            "11",
        ),
    ],
)
@needs_rearc
def test_a_bad_task_file_is_one_sentence_and_exit_code_2(
    arc_run, tmp_path, capsys, content, sentence
):
    task = tmp_path / "bad.json"
    task.write_text(content)
    with pytest.raises(SystemExit) as stop:
        run(lpn_arc, "lpn_arc.py:debug", arc_run, f"--predict={task}")
    assert stop.value.code == 2
    error = capsys.readouterr().err.strip()
    assert "\n" not in error and "bad.json" in error
    import re

    assert re.search(sentence, error)
