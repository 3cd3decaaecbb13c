"""Networks and target domains of the user's in `tta_images`."""

import json
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from PIL import Image

from experiments import tta_images
from experiments.data.images import classes, loader
from experiments.images import methods, own_network, report, source, stream, target
from jaxtrain import nets, trees
from jaxtrain.host import arrays
from jaxtrain.host.config import UsageError, load
from jaxtrain.nets import Classified
from jaxtta.evaluation import Evaluation

HERE = "tests.experiments.images.test_own_network"
FLAT = 32 * 32 * 3


class Linen(nn.Module):
    """A network as people write it: Flax's own batch norm, numbered names, bare logits."""

    num_classes: int

    @nn.compact
    def __call__(self, x, train: bool = False):
        x = nn.relu(nn.BatchNorm(use_running_average=not train)(nn.Conv(8, (4, 4), (4, 4))(x)))
        return nn.Dense(self.num_classes)(x.mean((1, 2)))


def linen(num_classes):
    return Linen(num_classes)


def too_few(num_classes):
    return Linen(num_classes - 1)


def another(num_classes):
    return {"params": num_classes}


def failing(num_classes):
    raise RuntimeError("no weights here.")


def layer_normed(num_classes):
    """A bare function whose parameters are a list, without batch statistics."""
    kernel = 0.01 * jax.random.normal(jax.random.key(0), (FLAT, num_classes))

    def apply(params, model_state, x, *, norm=None, mask=None):
        flat = x.reshape(len(x), -1)
        flat = (flat - flat.mean(1, keepdims=True)) * params[0]["gamma"][None]
        return Classified((flat + params[0]["beta"][None]) @ params[1], flat), model_state

    return apply, [{"gamma": jnp.ones(FLAT), "beta": jnp.zeros(FLAT)}, kernel], {}


def deaf(num_classes):
    """A network that ignores norm."""
    module = Linen(num_classes)
    variables = jax.jit(module.init)(jax.random.key(0), jnp.zeros((1, 32, 32, 3)))
    apply = nets.classifier(module)
    ignoring = lambda params, state, x, *, norm, mask: apply(params, state, x)
    return ignoring, variables["params"], {"batch_stats": variables["batch_stats"]}


def configured(function, **settings):
    pairs = {"model.name": f"{HERE}:{function}", "model.weights": "", **settings}
    spec = ",".join(f"{key}={value}" for key, value in pairs.items())
    return load(f"configs/tta_images.py:debug,{spec}")[0]


@pytest.mark.parametrize(
    "name, sentence",
    [
        ("nowhere.at.all:network", "there is no module 'nowhere'"),
        (f"{HERE}:nothing", "has no function 'nothing'"),
        (f"{HERE}:another", "returned a dict; it is called with the number of classes"),
        (f"{HERE}:failing", "raised RuntimeError: no weights here"),
        (f"{HERE}:too_few", "has 9 classes .* num_classes=10"),
    ],
)
def test_what_is_no_network_is_named(name, sentence):
    with pytest.raises(UsageError, match=sentence):
        own_network.made(name, 10, 32)


def test_weights_of_a_module_are_read_by_their_names(tmp_path):
    module, zeros = Linen(10), jnp.zeros((1, 32, 32, 3))
    variables = jax.jit(module.init)(jax.random.key(3), zeros)
    names = dict(zip(trees.path_names(variables), jax.tree.leaves(variables), strict=True))
    arrays.write(tmp_path / "mine.npz", names)
    weights = {"model.weights": tmp_path / "mine.npz"}
    found = source.build_source(configured("linen", **weights))
    jax.tree.map(np.testing.assert_array_equal, found.params, variables["params"])
    assert found.module is None and found.select(("BatchNorm_0", "scale"))
    for faults, sentence in (
        ({"params/Dense_0/kernel": np.zeros((8, 7), np.float32)}, r"Dense_0/kernel' is \(\(8, 7\)"),
        ({"params/more": np.zeros(3, np.float32)}, "'params/more' .*expected none"),
    ):
        arrays.write(tmp_path / "mine.npz", {**names, **faults})
        with pytest.raises(UsageError, match=sentence):
            source.build_source(configured("linen", **weights))
    with pytest.raises(UsageError, match="nowhere.npz' was not found; give a msgpack"):
        source.build_source(configured("linen", **{"model.weights": "nowhere.npz"}))
    with pytest.raises(
        UsageError, match="returns its weights itself; pass --config.model.weights="
    ):
        source.build_source(configured("layer_normed", **weights))


def test_a_bare_function_is_adapted_by_the_form_of_its_layers():
    found = source.build_source(configured("layer_normed"))
    images = np.random.default_rng(0).integers(0, 256, (4, 32, 32, 3), np.uint8)
    config = configured("layer_normed", methods=("tent", "sar"))
    check = lambda needed: own_network.check_own(config, found.apply, found.weights, images, needed)
    check([])
    with pytest.raises(UsageError, match="methods holds batch_norm, .* they would be the source"):
        check(["batch_norm"])
    for build in methods.chosen(config).values():
        core, args = build(found, None)
        state = jax.eval_shape(core.init, *args)
        state = getattr(state, "state", state)  # of the resets
        if hasattr(state, "opt_state"):
            assert trees.path_names(state.params) == ["0/beta", "0/gamma"]


def test_a_network_that_cannot_be_adapted_ends_the_command(tmp_path, capsys):
    argv = ["--config=configs/tta_images.py:debug", f"--workdir={tmp_path}/run"]
    argv += [f"--config.model.name={HERE}:deaf", "--config.model.weights="]
    with pytest.raises(SystemExit) as stop:
        tta_images.main(argv=argv)
    assert stop.value.code == 2
    said = capsys.readouterr().err
    assert "norm has no effect" in said and "norm.momentum has no effect" in said


def test_methods_that_look_inside_refuse_other_networks():
    with pytest.raises(UsageError, match="methods holds itta, nhl, which need the stages"):
        tta_images.validate(configured("linen", methods=("nhl", "itta")))
    with pytest.raises(UsageError, match="model.name='mine' is impossible; .*module:function"):
        load("configs/tta_images.py:debug,model.name=mine")


def write_target(folder, number=6):
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (number, 40, 32, 3), np.uint8)
    labels = np.arange(number) % 3
    np.savez(folder / "mine.npz", images=pixels, labels=labels)
    for i, (picture, label) in enumerate(zip(pixels, labels, strict=True)):
        (folder / "mine" / f"class{label}").mkdir(parents=True, exist_ok=True)
        Image.fromarray(picture).save(folder / "mine" / f"class{label}" / f"{i}.png")


def test_a_target_is_a_folder_or_arrays(tmp_path):
    write_target(tmp_path)
    images_of = lambda name, **more: target.target_images(
        configured("linen", **{"data.target": name, "model.num_classes": 3, **more})
    )
    by_array, by_folder = images_of(tmp_path / "mine.npz"), images_of(tmp_path / "mine")
    assert by_array.images.shape == (6, 32, 32, 3)
    np.testing.assert_array_equal(by_array.labels, [0, 1, 2, 0, 1, 2])
    for name in ("images", "labels"):
        np.testing.assert_array_equal(getattr(by_array, name), getattr(by_folder, name))
    assert len(images_of(tmp_path / "mine", **{"data.num_images": 4}).labels) == 4
    with pytest.raises(UsageError, match="data.target=.*3 classes, .* model.num_classes=10"):
        images_of(tmp_path / "mine", **{"model.num_classes": 10})
    with pytest.raises(UsageError, match="data.target=.*labels up to 2, .*num_classes=2"):
        images_of(tmp_path / "mine.npz", **{"model.num_classes": 2})
    with pytest.raises(UsageError, match="data.target='nowhere' was not found; name a folder"):
        images_of("nowhere")


def test_a_target_may_lack_labels(tmp_path):
    write_target(tmp_path)
    pixels = np.load(tmp_path / "mine.npz")["images"]
    np.savez(tmp_path / "bare.npz", images=pixels)
    (tmp_path / "bare").mkdir()
    for i, picture in enumerate(pixels):
        Image.fromarray(picture).save(tmp_path / "bare" / f"{i}.png")
    images_of = lambda name, **more: target.target_images(
        configured("linen", **{"data.target": tmp_path / name, **more})
    )
    labelled = images_of("mine.npz", **{"model.num_classes": 3})
    for name in ("bare.npz", "bare"):
        found = images_of(name)
        np.testing.assert_array_equal(found.images, labelled.images)
        assert not found.has_labels and (found.labels == -1).all()
        assert classes.shown(found) == "not known" != classes.shown(labelled)
        assert len(images_of(name, **{"data.num_images": 4}).labels) == 4
        with pytest.raises(UsageError, match="no labels, by which stream.setting=label_shift"):
            images_of(name, **{"stream.setting": "label_shift"})
    Image.fromarray(pixels[0]).save(tmp_path / "mine" / "more.png")
    with pytest.raises(UsageError, match="pictures such as more.png beside folders such as class0"):
        images_of("mine")
    np.savez(tmp_path / "bare.npz", images=pixels + np.float32(0.5))
    with pytest.raises(UsageError, match="bare.npz: pixels that are no bytes must lie from 0 to 1"):
        images_of("bare.npz")


def test_without_labels_errors_are_missing_and_never_0(tmp_path, capsys):
    config = configured("linen", **{"data.target": "mine.npz", "stream.rounds": 2})
    bare = loader.Images(np.zeros((24, 1)), np.full(24, -1), "mine.npz")
    shown = stream.build_stream(config, bare.labels, 0)
    predicted = np.eye(10)[np.where(shown.image < 18, 3, 4)]
    done = Evaluation(predicted, shown.mask, {}, None)
    row = report.row_of("tent", 0, done, data=bare, stream=shown, config=config, clean_error=0.5)
    assert row.shifts["target"]["largest_class"] == 0.75 and row.clean_error == 0.5
    for name in ("error", "nll", "brier", "ece"):
        assert np.isnan(row.shifts["target"][name])
    assert np.isnan(row.rounds).all() and len(row.rounds) == 2
    summary = report.summary([row])
    assert np.isnan(summary["tent_error"]).all() and summary["tent_clean_error"] == 0.5
    model = source.Source(None, {"w": np.ones(2)}, {}, 10)
    about = tta_images.description(config, bare, model)
    tta_images.write(tmp_path, [row], about)
    report.print_seed([row], 0)
    said = capsys.readouterr().out
    assert "labels none, so errors and calibration are missing" in said
    assert re.search(r"tent +- +- +50\.0\n", said) and re.search(
        r"tent +- +- +- +1\.000 +0\.750", said
    )
    assert "tent         error - %" in said
    assert not (tmp_path / "plots").exists()
    stored = json.loads((tmp_path / "evaluation" / "results.json").read_text())["rows"][0]
    assert stored["shifts"]["target"]["error"] is None and stored["rounds"] == [None, None]


def test_a_target_is_one_domain_without_corruptions():
    config = configured("linen", **{"data.target": "mine.npz"})
    tta_images.validate(config)
    assert stream.domains_of(config) == [("target", 0)]
    assert stream.build_stream(config, np.arange(24) % 10, 0).domain.max() == 0
    own = tta_images.own_settings(config)
    assert not {"corruptions", "severity", "corrupted_dir"} & set(own.data)
    for key, value in {"stream.setting": "gradual", "data.corrupted_dir": "tfds"}.items():
        with pytest.raises(UsageError, match="data.target is one domain"):
            tta_images.validate(configured("linen", **{"data.target": "mine.npz", key: value}))


@pytest.mark.ci
def test_own_network_on_a_target_without_labels(tmp_path):
    write_target(tmp_path, 20)
    np.savez(tmp_path / "bare.npz", images=np.load(tmp_path / "mine.npz")["images"])
    argv = ["--config=configs/tta_images.py:debug", f"--workdir={tmp_path}/run"]
    argv += [f"--config.model.name={HERE}:linen", f"--config.data.target={tmp_path}/bare.npz"]
    tta_images.main(argv=[*argv, "--config.methods=('tent',)"])
    final = json.loads((tmp_path / "run" / "summary.json").read_text())["final"]
    assert final["tent_error"]["trials"] == [None, None] and final["tent_error"]["mean"] is None
    assert final["tent_share_selected"]["mean"] == 1
    assert 0 <= final["tent_clean_error"]["mean"] <= 1


@pytest.mark.ci
def test_own_network_on_own_target(tmp_path):
    write_target(tmp_path, 20)
    argv = ["--config=configs/tta_images.py:debug", f"--workdir={tmp_path}/run"]
    argv += [f"--config.model.name={HERE}:linen", f"--config.data.target={tmp_path}/mine.npz"]
    argv += ["--config.num_seeds=1", "--config.methods=('batch_norm','tent','eata','sar')"]
    tta_images.main(argv=argv)
    results = json.loads((tmp_path / "run" / "evaluation" / "results.json").read_text())
    assert results["about"]["data"] == "mine.npz" and results["about"]["corruptions"] == "none"
    rows = {row["method"]: row["shifts"]["target"] for row in results["rows"]}
    assert rows["batch_norm"]["nll"] != rows["source"]["nll"] != rows["tent"]["nll"]
