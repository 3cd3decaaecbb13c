"""Latent Program Network: encode demonstrations, search a latent program, execute it.

    lpn = LPN(Config(max_rows=10, max_cols=10))
    params = jax.jit(lpn.init)(key)
    posterior = lpn.encode(params, pairs)                        # q(z | pair), one per pair
    score_fn = scorer(lpn, params, demos)                        # S(z) on one task's demonstrations
    result = find(lpn, params, key, demos, method)               # search
    grids = generate(lpn, params, latents, inputs)               # execute, cached
    solution = solve(lpn, params, keys, demos, inputs, method)   # all of it, for a batch of tasks

References:
  Macfarlane and Bonnet, Searching Latent Program Spaces, NeurIPS 2025, arXiv 2411.08706.
"""

from typing import TYPE_CHECKING

from jaxtrain.faces import lazy

if TYPE_CHECKING:
    from jaxtta.lpn.baselines import in_context_log_probs as in_context_log_probs
    from jaxtta.lpn.baselines import in_context_loss as in_context_loss
    from jaxtta.lpn.baselines import in_context_solve as in_context_solve
    from jaxtta.lpn.baselines import test_time_training as test_time_training
    from jaxtta.lpn.generation import generate as generate
    from jaxtta.lpn.grid_augment import augment as augment
    from jaxtta.lpn.grids import Grid as Grid
    from jaxtta.lpn.grids import Pairs as Pairs
    from jaxtta.lpn.grids import from_padded as from_padded
    from jaxtta.lpn.grids import leave_one_out as leave_one_out
    from jaxtta.lpn.grids import to_padded as to_padded
    from jaxtta.lpn.loss import log_probs as log_probs
    from jaxtta.lpn.loss import scorer as scorer
    from jaxtta.lpn.loss import task_loss as task_loss
    from jaxtta.lpn.model import LPN as LPN
    from jaxtta.lpn.model import Config as Config
    from jaxtta.lpn.model import Posterior as Posterior
    from jaxtta.lpn.search import Scored as Scored
    from jaxtta.lpn.search import Search as Search
    from jaxtta.lpn.search import SearchResult as SearchResult
    from jaxtta.lpn.search import prefix_best as prefix_best
    from jaxtta.lpn.search import run as run
    from jaxtta.lpn.search import start_points as start_points
    from jaxtta.lpn.search_combined import hybrid as hybrid
    from jaxtta.lpn.search_combined import restarts as restarts
    from jaxtta.lpn.search_strategies import cem as cem
    from jaxtta.lpn.search_strategies import encoder_sampling as encoder_sampling
    from jaxtta.lpn.search_strategies import evolution_strategy as evolution_strategy
    from jaxtta.lpn.search_strategies import gradient_ascent as gradient_ascent
    from jaxtta.lpn.search_strategies import local_search as local_search
    from jaxtta.lpn.search_strategies import random_search as random_search
    from jaxtta.lpn.solve import Method as Method
    from jaxtta.lpn.solve import Solution as Solution
    from jaxtta.lpn.solve import execute as execute
    from jaxtta.lpn.solve import find as find
    from jaxtta.lpn.solve import solve as solve
    from jaxtta.lpn.train import Tasks as Tasks
    from jaxtta.lpn.train import adamw as adamw
    from jaxtta.lpn.train import cut as cut
    from jaxtta.lpn.train import search_context as search_context
    from jaxtta.lpn.train import training as training
    from jaxtta.lpn.transformer import Block as Block

lazy(__name__)
