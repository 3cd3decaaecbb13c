"""The experiment end to end on made-up images: files, numbers, settings, errors."""

import json
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from experiments import tta_images
from experiments.data.images import loader
from experiments.images import diffusion, report, source, stream
from experiments.images import methods as tta_methods
from experiments.images.evaluate import over_window
from jaxtrain import nets, trees
from jaxtrain.host.config import UsageError, load
from jaxtta import streams
from jaxtta.evaluation import Evaluation

METHODS = tuple(tta_methods.METHODS)


def run(folder, *flags, spec="debug"):
    argv = [f"--config=configs/tta_images.py:{spec}", f"--workdir={folder}", *flags]
    tta_images.main(argv=argv)
    return json.loads((folder / "summary.json").read_text())["final"]


def test_run_leaves_numbers_table_and_figure(tmp_path, capsys):
    final = run(tmp_path / "run")
    assert len(final["tent_error"]["trials"]) == 2
    results = json.loads((tmp_path / "run" / "evaluation" / "results.json").read_text())
    about, rows = results["about"], results["rows"]
    assert about["setting"] == "reset_each_shift" and about["data"] == "synthetic"
    assert len(about["source_fingerprint"]) == 16
    assert [r["method"] for r in rows[:5]] == ["source", "reset", "batch_norm", "tent", "eata"]
    assert set(rows[0]["shifts"]) == {"gaussian_noise", "contrast"}
    mean = np.mean([s["error"] for s in rows[0]["shifts"].values()])
    np.testing.assert_allclose(final["source_error"]["trials"][0], mean)
    table = (tmp_path / "run" / "evaluation" / "table.txt").read_text()
    assert "setting reset_each_shift" in table and "batch_norm" in table
    assert (tmp_path / "run" / "plots" / "errors.png").stat().st_size > 1000
    # What is done is not done again, and another config in the old folder is refused.
    rows = tmp_path / "run" / "checkpoints" / "rows" / "0"
    before = (rows / "tent.json").stat().st_mtime_ns
    assert run(tmp_path / "run") == final
    assert (rows / "tent.json").stat().st_mtime_ns == before
    with pytest.raises(SystemExit) as stop:
        run(tmp_path / "run", "--config.method.tent.learning_rate=0.5")
    assert stop.value.code == 2
    assert "method.tent.learning_rate: 0.001 -> 0.5" in capsys.readouterr().err


@pytest.mark.ci
def test_a_sweep_has_a_table_per_trial_and_the_numbers_of_single_runs(tmp_path):
    options = ("--config.methods=('tent',)", "--config.num_seeds=1")
    final = run(tmp_path / "sweep", *options, "--sweep=method.tent.learning_rate=1e-3,1e-1")
    one = run(tmp_path / "one", *options, "--config.method.tent.learning_rate=0.1")
    assert final["tent_error"]["trials"][1] == one["tent_error"][0]
    assert final["source_nll"]["trials"] == one["source_nll"] * 2
    table = (tmp_path / "sweep" / "trial_1" / "evaluation" / "table.txt").read_text()
    assert "method.tent.learning_rate 0.1" in table


@pytest.mark.parametrize("setting", [s for s in stream.SETTINGS if s != "reset_each_shift"])
def test_every_setting_makes_a_stream_of_the_config(setting):
    config, _ = load(f"configs/tta_images.py:debug,stream.setting={setting},stream.rounds=2")
    labels = np.arange(24) % 10
    if setting == "open_set":
        labels[16:] = -1
    made = stream.build_stream(config, labels, 0)
    domains = 10 if setting == "gradual" else 2
    assert made.domain.max() < domains and made.image.max() < 24
    assert not made.reset.any()
    assert made.domain.shape[1] == 8
    half = len(made.reset) // 2
    np.testing.assert_array_equal(made.image[:half], made.image[half:])


@pytest.mark.ci
def test_every_method_and_a_gradual_stream_run(tmp_path):
    methods = f"--config.methods={METHODS!r}"
    final = run(
        tmp_path / "run",
        methods,
        "--config.num_seeds=1",
        "--config.stream.setting=gradual",
        "--config.source.imbalance=4.0",
    )
    for name in METHODS:
        assert 0 <= final[f"{name}_error"][0] <= 1


@pytest.mark.ci
def test_open_set_and_single_images(tmp_path):
    final = run(
        tmp_path / "open",
        "--config.stream.setting=open_set",
        "--config.model.num_classes=6",
        "--config.methods=('tent',)",
    )
    results = json.loads((tmp_path / "open" / "evaluation" / "results.json").read_text())
    assert results["about"]["data"] == "synthetic, unknown classes from the same set"
    for row in results["rows"]:
        assert set(row["open_set"]) == {"auroc", "fpr95", "oscr"}
        assert row["open_set"]["oscr"] <= row["open_set"]["auroc"] + 1e-9
    assert 0 <= final["tent_auroc"]["trials"][0] <= 1
    assert "open set, %" in (tmp_path / "open" / "evaluation" / "table.txt").read_text()
    run(
        tmp_path / "single",
        "--config.batch_size=1",
        "--config.stream.window=4",
        "--config.data.num_images=12",
        "--config.num_seeds=1",
        "--config.mesh.data=1",
        "--config.methods=('tent',)",
    )
    results = json.loads((tmp_path / "single" / "evaluation" / "results.json").read_text())
    assert results["about"]["setting"] == "reset_each_shift, window 4"
    tent = results["rows"][-1]
    # An image counts when it ends a full window: every fourth.
    assert tent["method"] == "tent" and tent["share_selected"] == 0.25


def test_open_set_energy_scores():
    """Two domains of known and unknown rows with energies known beforehand."""
    labels = np.array([0, 1, -1, -1])
    two = streams.Stream(
        np.array([[0] * 4, [1] * 4]),
        np.tile(np.arange(4), (2, 1)),
        np.ones((2, 4), bool),
        np.zeros(2, bool),
    )
    sure, unsure, wrong = [9.0, 0.0], [1.0, 0.0], [9.0, 0.0]
    logits = np.array([[sure, wrong, unsure, unsure], [unsure, unsure, sure, sure]])
    found = report.open_set_scores(logits, labels, two)
    np.testing.assert_allclose(found["auroc"], 0.5)  # 1 in the first domain, 0 in the second
    np.testing.assert_allclose(found["oscr"], 0.25)  # half of the known rows are right
    np.testing.assert_allclose(found["fpr95"], 0.5)


def test_worst_group_is_the_mean_over_corruptions_of_the_largest_error():
    config, _ = load("configs/tta_images.py:debug,batch_size=4")
    data = loader.Images(np.zeros((4, 1)), np.array([0, 0, 1, 1]), "", np.array([0, 1, 1, 1]))
    rows = np.tile(np.arange(4), (2, 1))
    two = streams.Stream(rows * 0 + [[0], [1]], rows, rows >= 0, np.zeros(2, bool))
    predicted = np.array([[1, 0, 1, 0], [0, 0, 0, 1]])  # errors 1 and 1/3; then 0 and 1/3
    done = Evaluation(np.eye(2)[predicted], rows >= 0, {}, None)
    row = report.row_of("tent", 0, done, data=data, stream=two, config=config, clean_error=0.0)
    np.testing.assert_allclose(row.worst_group, (1 + 1 / 3) / 2)
    assert "worst group" in report.table([row], {})
    without = report.row_of(
        "tent", 0, done, data=data._replace(groups=None), stream=two, config=config, clean_error=0.0
    )
    assert without.worst_group is None and "worst group" not in report.table([without], {})


def test_a_diffusion_model_is_read_as_it_was_written(tmp_path):
    config, _ = load(f"configs/tta_images.py:debug,diffusion.weights={tmp_path / 'noise.npz'}")
    network = diffusion.unet(config)
    x, times = jnp.ones((1, 32, 32, 3)), jnp.ones(1, jnp.int32)
    shapes = jax.eval_shape(network.init, jax.random.key(0), x, times)["params"]
    rng = np.random.default_rng(0)
    params = jax.tree.map(lambda p: rng.normal(size=p.shape).astype(np.float32), shapes)
    diffusion.save_denoiser(tmp_path / "noise.npz", diffusion.Denoiser(network, params))
    read = diffusion.denoiser(config)
    assert trees.path_names(read.params) == trees.path_names(params)
    jax.tree.map(np.testing.assert_array_equal, read.params, params)
    config.diffusion.network.width = 16
    with pytest.raises(UsageError, match="noise.npz holds another network"):
        diffusion.denoiser(config)
    config.diffusion.weights = "nowhere.npz"
    with pytest.raises(UsageError, match="'nowhere.npz' was not found"):
        diffusion.denoiser(config)


def write_pictures(folder, counts, seed=0):
    """JPEGs `<folder>/<class>/<i>.JPEG` of 80 x 100 pixels, whose hue is that of the class."""
    rng = np.random.default_rng(seed)
    for label, count in enumerate(counts):
        (folder / f"n{label}").mkdir(parents=True)
        for i in range(count):
            pixels = rng.integers(0, 120, (80, 100, 3))
            pixels[..., label] += 100
            file = folder / f"n{label}" / f"{i}.JPEG"
            Image.fromarray(pixels.astype(np.uint8)).save(file)


@pytest.fixture
def pictures(tmp_path):
    """Flags for a tree of three classes, laid out like ImageNet and ImageNet-C."""
    write_pictures(tmp_path / "data" / "train", (8, 8, 8))
    write_pictures(tmp_path / "data" / "val", (4, 3, 4), seed=1)
    for name, seed in (("fog", 2), ("contrast", 3)):
        write_pictures(tmp_path / "corrupted" / name / "5", (4, 3, 4), seed)
    return [
        f"--config.data.data_dir={tmp_path}/data",
        f"--config.data.corrupted_dir={tmp_path}/corrupted",
        "--config.data.corruptions=('fog','contrast')",
        "--config.data.num_images=11",
        "--config.data.size=64",
        "--config.model.name=resnet18",
        "--config.model.num_classes=3",
        "--config.model.weights=",
        "--config.source.num_steps=2",
        "--config.source.batch_size=8",
        "--config.fisher.num_images=8",
        "--config.fisher.batch_size=8",
        "--config.batch_size=4",
    ]


@pytest.mark.ci
def test_imagenet_c_in_folders_domain_by_domain(tmp_path, pictures):
    folder = tmp_path / "run"
    memory = "--config.data.memory_gb=2e-4"  # one domain takes 1.4e-4 GB
    final = run(folder, *pictures, "--config.methods=('eata',)", memory, spec="imagenet_c")
    found = json.loads((folder / "evaluation" / "results.json").read_text())
    assert found["about"]["data"] == "folder val of 3 classes"
    assert found["about"]["setting"] == "reset_each_shift"
    assert [row["method"] for row in found["rows"]] == ["source", "reset", "eata"]
    for row in found["rows"]:
        assert row["shifts"].keys() == {"fog", "contrast"}
    assert 0 <= final["eata_error"][0] <= 1


@pytest.mark.ci
def test_domain_by_domain_equals_all_at_once(tmp_path):
    flags = (
        "--config.stream.setting=continual",
        "--config.stream.rounds=2",
        "--config.num_seeds=1",
        "--config.methods=('cotta',)",  # draws, and a state that goes on
    )
    rows = []
    for memory in (1.0, 1e-4):  # one domain of 24 images takes 7.4e-5 GB
        folder = tmp_path / str(memory)
        run(folder, *flags, f"--config.data.memory_gb={memory}")
        results = json.loads((folder / "evaluation" / "results.json").read_text())
        rows.append(results["rows"])
    for row, other in zip(*rows, strict=True):
        np.testing.assert_allclose(row["rounds"], other["rounds"])
        for name, scores in row["shifts"].items():
            np.testing.assert_allclose(other["shifts"][name]["nll"], scores["nll"], rtol=1e-4)
        np.testing.assert_allclose(row["clean_error"], other["clean_error"])


def test_streams_are_cut_where_the_domain_changes():
    spec = "configs/tta_images.py:debug,stream.setting=continual,stream.rounds=2"
    config, _ = load(spec)
    clean = loader.Images(np.zeros((24, 32, 32, 3), np.uint8), np.arange(24) % 10, "made")
    whole = stream.build_stream(config, clean.labels, 0)
    at = lambda memory, *more: load(f"{spec},data.memory_gb={memory}{''.join(more)}")[0]
    assert stream.parts(config, clean, whole) == [whole]
    pieces = stream.parts(at(1e-4), clean, whole)
    assert [np.unique(p.domain).tolist() for p in pieces] == [[0], [1], [0], [1]]
    for uncut, *cut in zip(whole, *pieces, strict=True):
        np.testing.assert_array_equal(np.concatenate(cut), uncut)
    with pytest.raises(UsageError, match="take 0.0 GB; lower data.num_images or raise data.memory"):
        stream.parts(at(1e-5), clean, whole)
    mixed = at(1e-4, ",stream.setting=mixed_domains")
    with pytest.raises(UsageError, match="batches of stream.setting=mixed_domains mix 2 domains"):
        stream.parts(mixed, clean, stream.build_stream(mixed, clean.labels, 0))


def test_severity_0_is_clean_at_any_size_and_fewer_classes_refuse_published_arrays(pictures):
    options = [flag.removeprefix("--config.") for flag in pictures if "corrupt" not in flag]
    spec = ",".join(["configs/tta_images.py:imagenet_c", *options, "data.severity=0"])
    config, _ = load(f"{spec},data.corrupted_dir=")
    tta_images.validate(config)
    clean = stream.test_images(config)
    found = stream.corrupted(config, clean, 0, [("fog", 0)])
    np.testing.assert_array_equal(found[0], clean.images)
    assert clean.images.shape == (11, 64, 64, 3)
    with pytest.raises(UsageError, match="has 3 classes, .* model.num_classes=2; say which"):
        stream.test_images(load(f"{spec},model.num_classes=2")[0])


@pytest.mark.parametrize(
    "name, number",
    [
        ("resnet18", 11_689_512),
        ("resnet50", 25_557_032),
        ("vit_small", 22_050_664),
        ("vit_base", 86_567_656),
    ],
)
def test_networks_for_imagenet_have_the_published_number_of_parameters(name, number):
    config, _ = load(f"configs/tta_images.py:imagenet_c,model.name={name}")
    make, _ = source.NETWORKS[name]
    module = make(**config.model[name].to_dict(), num_classes=config.model.num_classes)
    example = jax.ShapeDtypeStruct((1, config.data.size, config.data.size, 3), np.float32)
    params, _ = jax.eval_shape(nets.from_linen(module).init, jax.random.key(0), example)
    assert sum(x.size for x in jax.tree.leaves(params)) == number


@pytest.mark.parametrize("name", ["rotta", "vdp", "itta", "nhl", "memo", "window"])
def test_methods_with_a_shape_of_images_take_that_of_the_config(name):
    config, _ = load("configs/tta_images.py:imagenet_c,data.size=64,method.memo.num_views=2")
    module = nets.resnet18(num_classes=1000)
    image = jax.ShapeDtypeStruct((1 if name == "window" else 4, 64, 64, 3), np.float32)
    params, model_state = jax.eval_shape(nets.from_linen(module).init, jax.random.key(0), image)
    weights = (params, model_state)
    model = source.Source(nets.classifier(module), *weights, 1000, module=module, size=64)
    known = types.SimpleNamespace(consistency=lambda **_: None)
    config.methods = ("tent" if name == "window" else name,)
    core, args = tta_methods.chosen(config)[config.methods[0]](model, known)
    if name == "window":
        core = over_window(core, 4, model.image_shape)
    assert args[:2] == weights

    def step(params, model_state, inputs):
        batch = {"inputs": inputs, "mask": np.ones(len(inputs), bool)}
        return core.update(core.init(params, model_state), batch, jax.random.key(0))[1]

    out = jax.eval_shape(step, params, model_state, image)
    assert out.outputs.logits.shape == (image.shape[0], 1000)


@pytest.mark.parametrize("imagenet_stem", [False, True])
def test_first_layer_is_that_of_the_network(imagenet_stem):
    module = nets.ResNet(blocks=(1,), widths=(16,), imagenet_stem=imagenet_stem)
    loader = np.random.default_rng(0).uniform(size=(1, 32, 32, 3)).astype(np.float32)
    variables = jax.jit(module.init)(jax.random.key(0), loader)
    only = lambda layer, _: layer.name == "conv"
    _, seen = jax.jit(lambda v: module.apply(v, loader, capture_intermediates=only))(variables)
    found = tta_methods.first_layer(module).outputs(loader, variables["params"]["conv"]["kernel"])
    wanted = seen["intermediates"]["conv"]["__call__"][0]
    np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-4)


def test_missing_weights_are_named(tmp_path, capsys):
    with pytest.raises(SystemExit) as stop:
        run(tmp_path / "run", "--config.model.weights=nowhere.npz")
    assert stop.value.code == 2
    assert "model.weights='nowhere.npz' was not found" in capsys.readouterr().err
