"""Image sets as vectors: how they are cut and scaled, and what is refused."""

import functools

import numpy as np
import pytest

from experiments.data.images import vectors
from jaxtrain.host.config import UsageError
from tests.shared_data import DATA

SHARED = DATA / "digits"


def arrays(n=12, side=4, seed=0):
    rng = np.random.default_rng(seed)
    return {
        "x_train": rng.integers(0, 256, (n, side, side), dtype=np.uint8),
        "y_train": np.arange(n, dtype=np.uint8) % 3,
        "x_test": rng.integers(0, 256, (6, side, side), dtype=np.uint8),
        "y_test": np.arange(6, dtype=np.uint8) % 3,
    }


@pytest.fixture(autouse=True)
def no_data_root(monkeypatch):
    monkeypatch.delenv("JAXTTA_DATA", raising=False)
    monkeypatch.setenv("TFDS_DATA_DIR", "/nowhere")


def test_npz_is_scaled_standardised_and_pooled(tmp_path):
    given = arrays()
    np.savez(tmp_path / "mine.npz", **given)
    found = vectors.load(str(tmp_path / "mine.npz"), size=2)
    pooled = {part: np.zeros((len(given[part]), 4)) for part in ("x_train", "x_test")}
    for part, rows in pooled.items():
        for i in range(2):
            for j in range(2):
                block = given[part][:, 2 * i : 2 * i + 2, 2 * j : 2 * j + 2] / 255
                rows[:, 2 * i + j] = block.reshape(len(rows), -1).mean(1)
    mean, std = pooled["x_train"].mean(), pooled["x_train"].std()  # of both parts
    np.testing.assert_allclose(found.x_train, (pooled["x_train"] - mean) / std, atol=1e-5)
    np.testing.assert_allclose(found.x_test, (pooled["x_test"] - mean) / std, atol=1e-5)
    assert found.num_classes == 3


@pytest.mark.parametrize("spec, kept", [(":1-2", (1, 2)), (":0,2", (0, 2))])
def test_classes_are_chosen_and_renamed(tmp_path, spec, kept):
    given = arrays()
    np.savez(tmp_path / "mine.npz", **given)
    found = vectors.load(f"{tmp_path / 'mine.npz'}{spec}", size=4)
    labels = [label for label in given["y_train"] if label in kept]
    np.testing.assert_array_equal(found.y_train, [kept.index(label) for label in labels])
    assert found.num_classes == 2 and found.provenance.endswith(f":{kept[0]},{kept[1]}")


def test_colour_and_size_are_changed(tmp_path):
    """Colours are kept or averaged; enlarging is linear between centres, and grey is repeated."""
    colours = np.random.default_rng(1).integers(0, 256, (12, 4, 4, 3), dtype=np.uint8)
    given = arrays()
    np.savez(tmp_path / "colour.npz", **given | {"x_train": colours, "x_test": colours[:6]})
    np.savez(tmp_path / "grey.npz", **given)
    load = lambda name, **form: vectors.load(str(tmp_path / name), **form).x_train
    standard = lambda x: ((x - x.mean()) / x.std()).reshape(12, -1)
    close = functools.partial(np.testing.assert_allclose, atol=1e-5)
    close(load("colour.npz", size=4, channels=3), standard(colours / 255))
    close(load("colour.npz", size=4), standard(colours.mean(-1) / 255))
    centres = np.clip((np.arange(8) + 0.5) / 2 - 0.5, 0, 3)
    share = np.maximum(1 - np.abs(centres[:, None] - np.arange(4)), 0)
    larger = share @ (given["x_train"] / 255) @ share.T
    close(load("grey.npz", size=8, channels=3), standard(np.repeat(larger[..., None], 3, -1)))


def test_prepared_tensorflow_data_set(tmp_path):
    """A builder of our own under the official name writes what the loader then reads."""
    tfds = pytest.importorskip("tensorflow_datasets")
    pil = pytest.importorskip("PIL.Image")
    pytest.importorskip("importlib_resources")
    import io

    given = arrays(side=28)

    def png(x):
        file = io.BytesIO()
        pil.fromarray(x).save(file, "PNG")
        return file.getvalue()

    with tfds.core.registered.skip_registration():

        class Mnist(tfds.core.GeneratorBasedBuilder):
            name = "mnist"
            VERSION = tfds.core.Version("3.0.1")

            def _info(self):
                return tfds.core.DatasetInfo(
                    builder=self,
                    features=tfds.features.FeaturesDict(
                        {
                            "image": tfds.features.Image(shape=(28, 28, 1)),
                            "label": tfds.features.ClassLabel(num_classes=10),
                        }
                    ),
                )

            def _split_generators(self, dl_manager):
                return {part: self._generate_examples(part) for part in ("train", "test")}

            def _generate_examples(self, part):
                pairs = zip(given[f"x_{part}"], given[f"y_{part}"], strict=True)
                for i, (x, y) in enumerate(pairs):
                    yield i, {"image": png(x), "label": int(y)}

    Mnist(data_dir=tmp_path, file_format="array_record").download_and_prepare()
    found = vectors.load("mnist", size=14, data_dir=str(tmp_path))
    assert found.provenance == "mnist/tfds" and found.x_train.shape == (12, 196)
    assert sorted(found.y_train) == sorted(given["y_train"])


def test_digits_by_class():
    found = vectors.load("digits:0-3", size=4)
    assert len(found.x_train) + len(found.x_test) == 720 and found.x_train.shape[1] == 16
    assert found.num_classes == 4 and found.provenance == "digits/UCI:0,1,2,3"
    assert abs(found.x_train.mean()) < 1e-5 and abs(found.x_train.std() - 1) < 1e-3
    again = vectors.load("digits:0-3", size=4)
    np.testing.assert_array_equal(again.x_train, found.x_train)
    joint = {row.tobytes() for row in vectors.load("digits", size=8).x_train}
    assert not joint & {row.tobytes() for row in vectors.load("digits", size=8).x_test}


@pytest.mark.skipif(not SHARED.is_dir(), reason="the developers' data folder is absent")
def test_published_constants_standardise_real_images(tmp_path):
    for name in ("mnist", "fashion_mnist"):
        (tmp_path / f"{name}.npz").symlink_to(SHARED / f"{name}_10k_10k.npz")
        found = vectors.load(name, size=28, data_dir=str(tmp_path))
        assert abs(found.x_train.mean()) < 0.02 and abs(found.x_train.std() - 1) < 0.02, name


def test_random_images_have_a_label_each():
    found = vectors.load("random:0-3", size=4)
    assert found.replace and found.x_test.shape == (4, 16)
    np.testing.assert_array_equal(found.y_test, np.arange(4))


@pytest.mark.parametrize(
    "spec, sentence",
    [
        ("minst", "unknown data set .minst.; known are cifar10, .*, random"),
        ("digits:four", "write them like digits:4-7"),
        ("kmnist", "data.download=true"),
        ("nowhere.npz", "does not exist"),
        ("npz:birds:0-3", "needs a file birds_train.npz"),
        ("tfds:birds", "no prepared TensorFlow data set 'birds'"),
        ("digits:11-12", "names class 11, of which digits has no images"),
    ],
)
def test_missing_data_is_one_sentence(spec, sentence):
    with pytest.raises(UsageError, match=sentence):
        vectors.load(spec, size=4)


def test_incomplete_archive_is_named(tmp_path):
    np.savez(tmp_path / "part.npz", x_train=np.zeros((2, 4, 4)))
    with pytest.raises(UsageError, match="part.npz lacks y_train; it holds x_train"):
        vectors.load(str(tmp_path / "part.npz"), size=4)


def test_parts_by_name_and_from_two_places(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (6, 4, 4, 3), dtype=np.uint8)
    for part in ("train", "test"):
        np.savez(tmp_path / f"birds_{part}.npz", images=pixels, labels=np.arange(6) % 3)
    found = vectors.load("npz:birds:0,2", size=2, data_dir=str(tmp_path))
    assert found.provenance == "npz:birds:0,2" and list(found.y_train) == [0, 1, 0, 1]
    np.savez(tmp_path / "cifar10_train.npz", images=pixels, labels=np.arange(6))
    both = {"x_test": pixels, "y_test": np.arange(6)}
    np.savez(tmp_path / "cifar10.npz", **both)
    assert vectors.load("cifar10", size=2, data_dir=str(tmp_path)).x_test.shape == (6, 4)
    assert vectors.parse("tfds:some/set") == ("tfds:some/set", ())


def test_classes_of_blobs_are_honoured():
    assert set(vectors.load("synthetic:0-2", size=4).y_train) == {0, 1, 2}
