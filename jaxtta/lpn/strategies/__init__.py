"""The search methods, each a function from a score to a `jaxtta.lpn.Search`."""

from typing import TYPE_CHECKING

from jaxtrain.faces import lazy

if TYPE_CHECKING:
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

lazy(__name__)
