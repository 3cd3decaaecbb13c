"""Training steps, searches and generation against the authors' code, in turns in one process.

python -m benchmarks.lpn_authors --authors=<clone of github.com/clement-bonnet/lpn>

Both sides have equal parameters and data and run on one JAX; of each the median of some rounds is
taken, wall and CPU time, after a compilation that no cache shortens. Beside the ratio stands the
largest one that can be had: the authors' time over that of the floor (`benchmarks.lpn_profile`) at
the rate of a 2048 x 2048 product, by CPU time. Generated grids are compared. Training steps and
searches draw noise in another order, and the authors clip the gradients of all tasks jointly, so
that their numbers are not. Two and a half minutes on two CPU cores.
"""

import argparse
import functools
import importlib
import sys
import time
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from benchmarks import lpn_profile, timing
from jaxtta.lpn import Block, Config, Pairs

NEEDED = ("src/models/lpn.py", "src/models/transformer.py", "src/models/utils.py")
Padded = tuple[jax.Array, jax.Array]  # pairs [B, N, R, C, 2] and shapes [B, N, 2, 2], uint8


class Authors(NamedTuple):
    """The modules of their repository."""

    lpn: Any
    transformer: Any
    utils: Any


def load(folder: str) -> Authors:
    """Imports their code.

    Raises:
      ValueError: the folder is no clone of their repository, or needs a package that is missing.
    """
    missing = [name for name in NEEDED if not Path(folder, name).is_file()]
    if missing:
        raise ValueError(
            f"--authors={folder!r} has no {missing[0]}; name a clone of "
            "https://github.com/clement-bonnet/lpn"
        )
    # They download data sets with it, which nothing here does.
    downloads = types.ModuleType("huggingface_hub")
    downloads.hf_hub_download = None  # type: ignore[attr-defined]
    sys.modules.setdefault("huggingface_hub", downloads)
    sys.path.insert(0, str(Path(folder).resolve()))
    try:
        names = ("lpn", "transformer", "utils")
        return Authors(*(importlib.import_module(f"src.models.{name}") for name in names))
    except ImportError as error:
        raise ValueError(f"--authors={folder!r} cannot be imported: {error}") from error


def network(authors: Authors, config: Config) -> Any:
    """Their network of the same structure; it takes our parameters."""

    def sizes(block: Block) -> dict[str, Any]:
        layer = authors.utils.TransformerLayerConfig(
            num_heads=block.num_heads,
            emb_dim_per_head=block.head_dim,
            mlp_dim_factor=block.mlp_factor,
        )
        sides = {"max_rows": config.max_rows, "max_cols": config.max_cols}
        return {"transformer_layer": layer, "num_layers": block.num_layers, **sides}

    encoder = authors.utils.EncoderTransformerConfig(
        **sizes(config.encoder), latent_dim=config.latent_dim, variational=True
    )
    decoder = authors.utils.DecoderTransformerConfig(**sizes(config.decoder))
    return authors.lpn.LPN(
        encoder=authors.transformer.EncoderTransformer(encoder),
        decoder=authors.transformer.DecoderTransformer(decoder),
    )


def padded(pairs: Pairs, config: Config) -> Padded:
    """Full-size grids `[B, N]` in their layout."""
    sides = (config.max_rows, config.max_cols)
    grids = [grid.cells.reshape(*grid.cells.shape[:-1], *sides) for grid in pairs[:2]]
    shapes = [grid.shape for grid in pairs[:2]]
    return jnp.stack(grids, -1), jnp.stack(shapes, -1).astype(jnp.uint8)


def their_step(model: Any, args: tuple[Any, ...], config: Config) -> tuple[Any, tuple[Any, ...]]:
    """Their update of a batch: gradient, clipping, AdamW; and its arguments."""
    state, (tasks,), key = args
    pairs = jax.tree.map(lambda x: jnp.concatenate(list(jnp.moveaxis(x, 1, 0))), tasks.pairs)
    optimizer = optax.chain(optax.clip_by_global_norm(1.0), optax.adamw(4e-4))
    params = state.params
    given = (params, optimizer.init(params), *padded(pairs, config), key)

    def step(params: Any, moments: Any, grids: Any, shapes: Any, key: Any) -> Any:
        loss = lambda p: model.apply(
            {"params": p},
            grids,
            shapes,
            dropout_eval=False,
            mode="mean",
            prior_kl_coeff=1e-4,
            rngs={"latents": key},
        )
        grads, metrics = jax.grad(loss, has_aux=True)(params)
        updates, moments = optimizer.update(grads, moments, params)
        return optax.apply_updates(params, updates), moments, metrics

    return step, given


def their_search(model: Any, args: tuple[Any, ...], config: Config) -> tuple[Any, tuple[Any, ...]]:
    params, keys, demos = args

    def search(params: Any, grids: Any, shapes: Any, key: Any) -> Any:
        def found(module: Any) -> Any:
            mean, logvar = module.encoder(grids, shapes, True)
            drawn, *_ = module._sample_latents(mean, logvar, key)
            best, _ = module._get_gradient_ascent_context(
                drawn,
                grids,
                shapes,
                None,
                num_steps=lpn_profile.STEPS,
                lr=0.1,
                optimizer="adam",
                optimizer_kwargs={"b2": 0.9},
            )
            return best

        return model.apply({"params": params}, method=found)

    return search, (params, *padded(demos, config), keys[0])


def their_generation(
    model: Any, args: tuple[Any, ...], config: Config
) -> tuple[Any, tuple[Any, ...]]:
    params, latents, inputs = args
    cells = inputs.cells.reshape(-1, config.max_rows, config.max_cols)

    def generate(params: Any, latents: Any, cells: Any, shape: Any) -> Any:
        write = type(model)._generate_output_from_context
        return model.apply({"params": params}, latents, cells, shape, True, method=write)

    return generate, (params, latents, cells, inputs.shape.astype(jnp.uint8))


class Side(NamedTuple):
    """A compiled function, its arguments, and how long compiling it took."""

    function: Callable[..., Any]
    args: tuple[Any, ...]
    compilation: timing.Spent
    tracing: float


def compiled(function: Callable[..., Any], args: tuple[Any, ...]) -> Side:
    jax.clear_caches()
    begin = timing.now()
    lowered = jax.jit(function).lower(*args)
    traced = time.process_time() - begin.cpu
    return Side(lowered.compile(), args, timing.since(begin), traced)


def compare(name: str, theirs: Side, ours: Side, rounds: int, least: float) -> dict[str, Any]:
    """Prints medians of both, taken in turns, and their ratios; returns the last results.

    Args:
      name: of what is compared.
      theirs, ours: the sides.
      rounds: calls of each.
      least: seconds of CPU time that the work needs at least.
    """
    sides = {"theirs": theirs, "ours": ours}
    spent, results = timing.in_turns(
        {side: functools.partial(s.function, *s.args) for side, s in sides.items()}, rounds
    )
    wall, cpu = (a / b for a, b in zip(spent["theirs"], spent["ours"], strict=True))
    print(
        f"{name}: theirs {spent['theirs']}, ours {spent['ours']}, ratio {wall:.2f} "
        f"(CPU {cpu:.2f}), at the floor it would be {spent['theirs'].cpu / least:.1f}"
    )
    for side, (_, _, compilation, tracing) in sides.items():
        print(f"  compiling {side}: {compilation}, {tracing:.2g} s of it tracing")
    return results


@timing.told()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--authors", required=True, help="folder of a clone of their repository")
    help_ = "calls of each side; of short ones ten times as many"
    parser.add_argument("--rounds", type=int, default=3, help=help_)
    options = parser.parse_args()
    try:
        authors = load(options.authors)
    except ValueError as error:
        parser.error(str(error))
    jax.config.update("jax_enable_compilation_cache", False)
    rate = timing.matmul_rates()
    print(f"matrix-multiply rate {rate}")
    made: dict[str, Side] = {}  # they have no form of their own for some of ours
    for case in lpn_profile.cases():
        model = network(authors, case.config)
        kind = case.name.split(",")[0]
        make = {"step": their_step, "search": their_search}.get(kind, their_generation)
        function, args = make(model, case.args, case.config)
        what = ",".join(case.name.split(",")[:2]) if kind == "step" else kind
        theirs = made[what] = made.get(what) or compiled(function, args)
        ours = compiled(case.function, case.args)
        short = kind not in ("step", "search") or "2d" in case.name
        rounds = options.rounds * (10 if short else 1)
        results = compare(case.name, theirs, ours, rounds, case.floor / rate.cpu)
        needed = lpn_profile.program_of(function, args)
        print(f"  matrix products of theirs {needed:.2e} FLOPs, of ours {case.program:.2e}")
        if make is their_generation:
            cells, _ = results["theirs"]
            same = np.asarray(cells).reshape(-1) == np.asarray(results["ours"].cells).reshape(-1)
            print(f"  equal cells {same.mean():.0%}")


if __name__ == "__main__":
    main()
