"""Checkpoints: round trips, damage of every kind, what is kept, what is refused."""

import logging
import os
import shutil
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxtrain.host import checkpoint, leaves, stored
from jaxtrain.host.checkpoint import CheckpointError, Checkpoints


class State(NamedTuple):
    params: Any
    opt_state: Any = ()


def params(value: float = 0.0) -> dict[str, jax.Array]:
    noise = jax.random.normal(jax.random.key(0), (40, 50))  # does not compress
    return {"w": noise + value, "b": jnp.full((3,), float(value))}


def state(value: float = 0.0) -> State:
    return State(params(value), optax.adam(1e-3).init(params(value)))


def same(a: Any, b: Any) -> bool:
    def words(x: Any) -> np.ndarray:
        is_key = jnp.issubdtype(x.dtype, jax.dtypes.prng_key)
        return np.asarray(jax.random.key_data(x) if is_key else x)

    return jax.tree.structure(a) == jax.tree.structure(b) and all(
        x.dtype == y.dtype and x.shape == y.shape and words(x).tobytes() == words(y).tobytes()
        for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True)
    )


def save(folder: Path, *steps: int, **options: Any) -> None:
    with Checkpoints(folder, every=1, keep=9, **options) as checkpoints:
        for step in steps:
            assert checkpoints.maybe_save(step, state(step), {"seed": 1}, {"loss": -float(step)})


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def test_round_trip_keeps_structure_types_and_bits(tmp_path):
    saved = {
        "tuple": State((jnp.arange(3), None), optax.adam(1e-3).init({"w": jnp.ones((2, 2))})),
        "key": jax.random.split(jax.random.key(3), 2),
        "half": jnp.asarray([1.5, -0.0, jnp.inf, jnp.nan], jnp.bfloat16),
        "flags": jnp.asarray([True, False]),
        "bytes": jnp.arange(5, dtype=jnp.uint8),
        "empty": jnp.zeros((0, 3)),
        "scalar": jnp.float32(-0.0),
    }
    with Checkpoints(tmp_path, every=5) as checkpoints:
        assert not checkpoints.maybe_save(4, saved, {}, {})
        assert checkpoints.maybe_save(5, saved, {"note": [1, "x"]}, {})
        assert not checkpoints.maybe_save(5, saved, {}, {}, force=True)
    template = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), saved)
    restored, step, meta = Checkpoints(tmp_path, every=5).restore_or(template)
    assert (step, meta) == (5, {"note": [1, "x"]})
    assert same(restored, saved)


def test_state_may_be_donated_while_it_is_being_saved(tmp_path):
    change = jax.jit(lambda x: x * 0 - 1, donate_argnums=0)
    big = jnp.arange(2_000_000, dtype=jnp.float32)
    with Checkpoints(tmp_path, every=1, keep=9) as checkpoints:
        for step in range(1, 4):
            big = change(big) * 0 + jnp.arange(2_000_000, dtype=jnp.float32) + step
            checkpoints.maybe_save(step, {"x": big}, {}, {})
            big = change(big).block_until_ready()
    for step in range(1, 4):
        found = checkpoint.load_arrays(tmp_path / str(step))["x"]
        np.testing.assert_array_equal(found, np.arange(2_000_000, dtype=np.float32) + step)


def test_nothing_to_restore_gives_the_state_back(tmp_path):
    fresh = state()
    restored = Checkpoints(tmp_path / "absent", every=1).restore_or(fresh)
    assert restored.tree is fresh and restored.step == 0 and restored.meta == {}
    assert not (tmp_path / "absent").exists()


def largest_file(folder: Path) -> Path:
    return max((p for p in folder.rglob("*") if p.is_file()), key=lambda p: p.stat().st_size)


def truncate(folder: Path) -> None:
    file = largest_file(folder)
    os.truncate(file, file.stat().st_size // 2)


def overwrite(folder: Path) -> None:
    file = largest_file(folder)
    content = bytearray(file.read_bytes())
    middle = len(content) // 2
    content[middle : middle + 64] = np.random.default_rng(0).bytes(64)
    file.write_bytes(content)


def hollow(folder: Path) -> None:
    shutil.rmtree(folder)
    folder.mkdir()


def edit_meta(folder: Path) -> None:
    file = folder / "meta" / "data.json"
    file.write_text(file.read_text().replace('"seed": 1', '"seed": 2'))


def break_meta(folder: Path) -> None:
    file = folder / "meta" / "data.json"
    file.write_text(file.read_text()[:-9])


def rename(folder: Path) -> None:
    shutil.rmtree(folder)
    shutil.copytree(folder.with_name("2"), folder)


def foreign(other: Any) -> Any:
    def replace(folder: Path) -> None:
        shutil.rmtree(folder)
        with Checkpoints(folder.parent, every=1, keep=9) as checkpoints:
            checkpoints.maybe_save(int(folder.name), other, {}, {})

    return replace


DAMAGE = {
    "truncated file": (truncate, "is damaged"),
    "deleted file": (lambda folder: largest_file(folder).unlink(), "is damaged"),
    "deleted folder": (lambda folder: shutil.rmtree(folder / "state"), "is damaged"),
    "overwritten bytes": (overwrite, "is damaged"),
    "empty folder": (hollow, "is damaged or not ours"),
    "edited metadata": (edit_meta, "its metadata has changed"),
    "cut metadata": (break_meta, "is damaged or not ours"),
    "another step's": (rename, "it was saved as step 2"),
    "other leaves": (
        foreign(State({"v": jnp.ones(3)})),
        "params/w is missing; opt_state/0/count is missing",
    ),
    "other shape": (
        foreign(state()._replace(params={**params(), "b": jnp.ones(4)})),
        "params/b is float32[4] where float32[3] is expected",
    ),
    "other dtype": (
        foreign(state()._replace(params={**params(), "b": jnp.ones(3, jnp.bfloat16)})),
        "params/b is bfloat16[3] where float32[3] is expected",
    ),
}


@pytest.mark.parametrize("kind", DAMAGE)
def test_damaged_checkpoint_is_named_and_the_newest_good_one_used(tmp_path, caplog, capfd, kind):
    damage, reason = DAMAGE[kind]
    save(tmp_path, 1, 2, 3)
    damage(tmp_path / "3")
    before = names(tmp_path)
    with Checkpoints(tmp_path, every=1, keep=2) as checkpoints:
        with caplog.at_level(logging.WARNING):
            restored, step, meta = checkpoints.restore_or(state())
        assert step == 2 and meta == {"seed": 1} and same(restored, state(2))
        (message,) = [record.getMessage() for record in caplog.records]
        assert str(tmp_path / "3") in message and reason in message and "\n" not in message
        assert names(tmp_path) == before
        checkpoints.maybe_save(3, state(33), {}, {})
    assert names(tmp_path) == {"2", "3", "3.damaged"}
    assert same(Checkpoints(tmp_path, every=1).restore_or(state()).tree, state(33))
    assert "Traceback" not in capfd.readouterr().err


def test_no_good_checkpoint_is_an_error_and_nothing_is_deleted(tmp_path):
    save(tmp_path, 1, 2)
    truncate(tmp_path / "1")
    hollow(tmp_path / "2")
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(CheckpointError, match="nothing was deleted") as error:
        Checkpoints(tmp_path, every=1).restore_or(state())
    assert str(tmp_path / "1") in str(error.value) and str(tmp_path / "2") in str(error.value)
    assert sorted(tmp_path.rglob("*")) == before


def test_no_changed_byte_is_ever_restored(tmp_path):
    save(tmp_path, 1)
    file = largest_file(tmp_path / "1")
    content = file.read_bytes()
    detected = 0
    for place in np.linspace(0, len(content) - 1, 12).astype(int):
        changed = bytearray(content)
        changed[place] ^= 1
        file.write_bytes(changed)
        try:
            restored = checkpoint.load(tmp_path / "1", state()).tree
        except CheckpointError:
            detected += 1
        else:
            assert same(restored, state(1))  # a byte that no array uses
    assert detected >= 10


def test_fingerprint_equals_its_definition_and_sees_every_change():
    rng = np.random.default_rng(0)

    def definition(x: np.ndarray) -> int:
        words = x.ravel().view(f"uint{8 * min(x.itemsize, 4)}")
        step = 2 * 0x9E3779B1
        return sum(int(w) * (i * step + 1) for i, w in enumerate(words)) % 2**32

    for dtype in (np.float32, np.uint8, np.int16, np.complex64):
        x = rng.integers(0, 100, (3, 4, 5)).astype(dtype)
        assert int(leaves.fingerprint(jnp.asarray(x))) == definition(x)
        y = x.copy()
        y[1, 2, 3], y[2, 1, 0] = x[2, 1, 0] + 1, x[1, 2, 3]
        assert int(leaves.fingerprint(jnp.asarray(y))) != definition(x)


def test_keeps_the_newest_and_the_best(tmp_path):
    accuracy = {1: 0.1, 2: 0.9, 3: float("nan"), 4: 0.3, 5: 0.2, 6: 0.4}
    for keep_best, best in (("eval/accuracy", "2"), ("-eval/accuracy", "1"), (None, None)):
        folder = tmp_path / str(best)
        with Checkpoints(folder, every=1, keep=2, keep_best=keep_best) as checkpoints:
            for step, value in accuracy.items():
                checkpoints.maybe_save(step, state(step), {}, {"eval/accuracy": [value, value]})
        assert names(folder) == {"5", "6"} | ({best} if best else set())
        if best:  # another process goes on
            with Checkpoints(folder, every=1, keep=1, keep_best=keep_best) as checkpoints:
                checkpoints.restore_or(state())
                checkpoints.maybe_save(7, state(7), {}, {"eval/accuracy": 0.35})
            assert names(folder) == {"7", best}


def test_best_needs_its_metric_when_due_only(tmp_path):
    with Checkpoints(tmp_path, every=10, keep_best="eval/accuracy") as checkpoints:
        assert checkpoints.maybe_save(7, state(), {}, {"loss": 1.0}, force=True)
        with pytest.raises(ValueError, match=r"keep_best is 'eval/accuracy'.*\['loss'\]"):
            checkpoints.maybe_save(10, state(), {}, {"loss": 1.0})


def test_saving_over_a_checkpoint_is_refused(tmp_path):
    save(tmp_path, 1)
    with Checkpoints(tmp_path, every=1) as checkpoints:
        with pytest.raises(CheckpointError, match="exists already; restore"):
            checkpoints.maybe_save(1, state(), {}, {})


def test_leftovers_are_removed_by_the_first_save_only(tmp_path):
    save(tmp_path, 1)
    for name in ("2.orbax-checkpoint-tmp", "0.removing"):
        shutil.copytree(tmp_path / "1", tmp_path / name)
    with Checkpoints(tmp_path, every=1) as checkpoints:
        assert checkpoints.restore_or(state()).step == 1
        assert len(names(tmp_path)) == 3
        checkpoints.maybe_save(2, state(2), {}, {})
    assert names(tmp_path) == {"1", "2"}
    assert same(Checkpoints(tmp_path, every=1).restore_or(state()).tree, state(2))


def test_a_save_that_fails_says_so(tmp_path, monkeypatch):
    class Full:
        def result(self) -> None:
            raise OSError("no space left on device")

    save(tmp_path, 1)
    checkpoints = Checkpoints(tmp_path, every=1)
    checkpoints.restore_or(state())
    monkeypatch.setattr(stored.ocp, "save_checkpointables_async", lambda *a, **k: Full())
    checkpoints.maybe_save(2, state(), {}, {})
    with pytest.raises(CheckpointError, match="saving checkpoint .*2 failed .*no space left"):
        checkpoints.wait()
    assert names(tmp_path) == {"1"}


def test_load_from_a_run_a_folder_or_a_step(tmp_path):
    save(tmp_path / "checkpoints", 1, 2)
    for path, value in (("", 2), ("checkpoints", 2), ("checkpoints/1", 1)):
        assert same(checkpoint.load_params(tmp_path / path, params()), params(value))
        whole = checkpoint.load(tmp_path / path, state())
        assert same(whole.tree, state(value)) and whole.step == value
    assert same(checkpoint.load(tmp_path, params()["b"], field="params.b").tree, params(2)["b"])
    with pytest.raises(CheckpointError, match="params/c is missing"):
        checkpoint.load_params(tmp_path / "checkpoints/1", {**params(), "c": jnp.ones(1)})
    with pytest.raises(CheckpointError, match="holds no checkpoint"):
        checkpoint.load_params(tmp_path / "elsewhere", params())


def test_load_arrays_names_every_leaf(tmp_path):
    save(tmp_path, 4)
    found = checkpoint.load_arrays(tmp_path / "4")
    expected = {"params/w", "params/b", "opt_state/0/count"} | {
        f"opt_state/0/{moment}/{leaf}" for moment in ("mu", "nu") for leaf in "wb"
    }
    assert set(found) == expected
    np.testing.assert_array_equal(found["params/w"], params(4)["w"])


def test_metadata_can_refuse_a_resume(tmp_path):
    save(tmp_path, 1, 2)

    def check(meta: dict[str, Any]) -> None:
        raise KeyError(f"seed {meta['seed']}")

    with pytest.raises(KeyError, match="seed 1"):
        Checkpoints(tmp_path, every=1).restore_or(State({"v": jnp.ones(1)}), check)


def test_impossible_arguments(tmp_path):
    with pytest.raises(ValueError, match="checkpoint.every is 0"):
        Checkpoints(tmp_path, every=0)
    with pytest.raises(ValueError, match="checkpoint.keep is 0"):
        Checkpoints(tmp_path, every=1, keep=0)
    with pytest.raises(TypeError, match="state leaf a/n is a int"):
        Checkpoints(tmp_path, every=1).maybe_save(1, {"a": {"n": 3}}, {}, {})
    save(tmp_path / "good", 1)
    with pytest.raises(TypeError, match="state leaf params is a int"):
        Checkpoints(tmp_path / "good", every=1).restore_or(State(3))
    with pytest.raises(ValueError, match="same path"):
        Checkpoints(tmp_path, every=1).maybe_save(
            1, {"a": {"b": jnp.ones(1)}, "a/b": jnp.ones(1)}, {}, {}
        )
