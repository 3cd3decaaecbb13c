"""Names, selection, averages and sizes of trees."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxtrain import trees


class State(NamedTuple):
    params: Any
    count: Any


TREE = State(
    params={"norm": {"scale": jnp.ones(3)}, "blocks": [jnp.zeros((2, 4)), jnp.ones(())]},
    count=jnp.int32(7),
)


def test_names_follow_the_order_of_leaves():
    names = trees.path_names(TREE)
    assert names == ["params/blocks/0", "params/blocks/1", "params/norm/scale", "count"]
    sizes = [x.size for x in jax.tree.leaves(TREE)]
    assert dict(zip(names, sizes, strict=True))["params/blocks/0"] == 8


def test_describe_and_size_work_on_abstract_trees():
    abstract = jax.eval_shape(lambda: TREE)
    for tree in (TREE, abstract):
        assert trees.size(tree) == 8 + 1 + 3 + 1
        assert trees.describe(tree) == {
            "params/blocks/0": ((2, 4), "float32"),
            "params/blocks/1": ((), "float32"),
            "params/norm/scale": ((3,), "float32"),
            "count": ((), "int32"),
        }


def test_partition_by_path_and_merge():
    selected, rest = trees.partition(TREE, lambda names: "norm" in names or names[-1] == "0")
    assert trees.path_names(selected) == ["params/blocks/0", "params/norm/scale"]
    assert trees.path_names(rest) == ["params/blocks/1", "count"]
    for merged in (trees.merge(selected, rest), trees.merge(rest, selected)):
        assert jax.tree.structure(merged) == jax.tree.structure(TREE)
        jax.tree.map(np.testing.assert_array_equal, merged, TREE)


def test_a_half_can_be_differentiated_alone():
    selected, rest = trees.partition(TREE, lambda names: "scale" in names)

    def loss(half):
        tree = trees.merge(half, rest)
        return (tree.params["norm"]["scale"] ** 2).sum() + tree.params["blocks"][1]

    grads = jax.grad(loss)(selected)
    assert jax.tree.structure(grads) == jax.tree.structure(selected)
    np.testing.assert_array_equal(grads.params["norm"]["scale"], [2, 2, 2])


def test_merge_refuses_two_owners():
    with pytest.raises(ValueError, match="leaf 'a' is in both trees"):
        trees.merge({"a": 1.0}, {"a": 2.0})
    with pytest.raises(ValueError, match="different structures"):
        trees.merge({"a": None, "b": 1.0}, {"a": 2.0})


def test_ema_per_leaf():
    old = {"w": jnp.array([1.0, 2.0]), "h": jnp.ones(2, jnp.bfloat16), "n": jnp.int32(1)}
    new = {"w": jnp.array([3.0, 6.0]), "h": jnp.zeros(2, jnp.bfloat16), "n": jnp.int32(9)}
    mean = jax.jit(trees.ema)(old, new, 0.75)
    np.testing.assert_allclose(mean["w"], [1.5, 3.0])
    np.testing.assert_allclose(mean["h"].astype(jnp.float32), [0.75, 0.75])
    assert mean["h"].dtype == jnp.bfloat16 and mean["n"] == 9


def test_global_norm():
    tree = {"a": jnp.array([3.0]), "b": [jnp.array([[4.0, 12.0]])]}
    np.testing.assert_allclose(trees.global_norm(tree), 13.0)
