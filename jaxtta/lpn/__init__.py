"""Latent Program Network: encode demonstrations, search a latent program, execute it.

    lpn = LPN(Config(max_rows=10, max_cols=10))
    params = jax.jit(lpn.init)(key)
    posterior = lpn.encode(params, pairs)                        # q(z | pair), one per pair
    score_fn = scorer(lpn, params, demos)                        # S(z) on one task's demonstrations
    search = gradient_ascent(score_fn, ascent_adam(0.1))
    result = run_search(search, key, starts, num_steps)
    grids = generate(lpn, params, latents, inputs)               # execute, cached

Searches have three levels, a file or folder each: `search` is the engine and its records, for any
score; `strategies` are the methods; `solve` is all of it for tasks.

    result = search_task(lpn, params, key, demos, method)              # for one task
    solution = solve_tasks(lpn, params, keys, demos, inputs, method)   # for a batch of tasks

References:
  Macfarlane and Bonnet, Searching Latent Program Spaces, NeurIPS 2025, arXiv 2411.08706.
"""

from typing import TYPE_CHECKING

from jaxtrain.faces import lazy

if TYPE_CHECKING:
    from jaxtta.lpn.baselines import in_context_log_probs as in_context_log_probs
    from jaxtta.lpn.baselines import in_context_loss as in_context_loss
    from jaxtta.lpn.baselines import in_context_solve_tasks as in_context_solve_tasks
    from jaxtta.lpn.baselines import test_time_training as test_time_training
    from jaxtta.lpn.config import Block as Block
    from jaxtta.lpn.config import Config as Config
    from jaxtta.lpn.encoder import Posterior as Posterior
    from jaxtta.lpn.generation import generate as generate
    from jaxtta.lpn.grid_augment import augment as augment
    from jaxtta.lpn.grids import Grid as Grid
    from jaxtta.lpn.grids import Pairs as Pairs
    from jaxtta.lpn.grids import from_padded as from_padded
    from jaxtta.lpn.grids import leave_one_out as leave_one_out
    from jaxtta.lpn.grids import to_padded as to_padded
    from jaxtta.lpn.likelihood import log_probs as log_probs
    from jaxtta.lpn.likelihood import mean_cells as mean_cells
    from jaxtta.lpn.likelihood import scorer as scorer
    from jaxtta.lpn.likelihood import sum_cells as sum_cells
    from jaxtta.lpn.loss import every_latent_loss as every_latent_loss
    from jaxtta.lpn.loss import mean_context as mean_context
    from jaxtta.lpn.loss import task_loss as task_loss
    from jaxtta.lpn.model import LPN as LPN
    from jaxtta.lpn.search import Scored as Scored
    from jaxtta.lpn.search import ScoreFn as ScoreFn
    from jaxtta.lpn.search import Search as Search
    from jaxtta.lpn.search import SearchResult as SearchResult
    from jaxtta.lpn.search import prefix_best as prefix_best
    from jaxtta.lpn.search import run_search as run_search
    from jaxtta.lpn.solve import Attempts as Attempts
    from jaxtta.lpn.solve import Method as Method
    from jaxtta.lpn.solve import Solution as Solution
    from jaxtta.lpn.solve import distinct_output as distinct_output
    from jaxtta.lpn.solve import execute_tasks as execute_tasks
    from jaxtta.lpn.solve import other_start as other_start
    from jaxtta.lpn.solve import search_task as search_task
    from jaxtta.lpn.solve import second_best as second_best
    from jaxtta.lpn.solve import solve_tasks as solve_tasks
    from jaxtta.lpn.starts import Starts as Starts
    from jaxtta.lpn.starts import first_latent as first_latent
    from jaxtta.lpn.starts import mean_latent as mean_latent
    from jaxtta.lpn.starts import posterior_mean as posterior_mean
    from jaxtta.lpn.starts import product_latent as product_latent
    from jaxtta.lpn.starts import sample_latents as sample_latents
    from jaxtta.lpn.starts import start_points as start_points
    from jaxtta.lpn.strategies.ascent import ascent_adam as ascent_adam
    from jaxtta.lpn.strategies.ascent import clip_each as clip_each
    from jaxtta.lpn.strategies.ascent import clip_jointly as clip_jointly
    from jaxtta.lpn.strategies.ascent import gradient_ascent as gradient_ascent
    from jaxtta.lpn.strategies.combined import hybrid as hybrid
    from jaxtta.lpn.strategies.combined import restarts as restarts
    from jaxtta.lpn.strategies.evolution import cem as cem
    from jaxtta.lpn.strategies.evolution import evolution_strategy as evolution_strategy
    from jaxtta.lpn.strategies.evolution import local_search as local_search
    from jaxtta.lpn.strategies.sampling import encoder_sampling as encoder_sampling
    from jaxtta.lpn.strategies.sampling import random_search as random_search
    from jaxtta.lpn.train import Tasks as Tasks
    from jaxtta.lpn.train import adamw as adamw
    from jaxtta.lpn.train import cut as cut
    from jaxtta.lpn.train import search_context as search_context
    from jaxtta.lpn.train import training as training
    from jaxtta.lpn.views import in_views as in_views

lazy(__name__)
