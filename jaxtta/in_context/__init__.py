"""General-purpose in-context learning: models meta-trained until they learn in their activations.

    learner = transformer(num_inputs, num_classes, length)
    sample = lambda data: sampler(data, base_key, Projection(n, n), num_classes, length=T, ...)
    core = holding(lambda data: meta_training(learner, sample(data), optax.adam(1e-3)))
    state = core.init(data, key)   # the data set is in the state, not in the program
    curves = meta_test(learner, params, key, base_key, probes, projection, length=T, num_tasks=K)
    probabilities = predict(learner, params, x, y, queries)   # a new labelled data set

References:
  Kirsch, Harrison, Sohl-Dickstein and Metz, General-Purpose In-Context Learning by Meta-Learning
  Transformers, arXiv 2212.04458.
"""

from typing import TYPE_CHECKING

from jaxtrain.faces import lazy

if TYPE_CHECKING:
    from jaxtta.in_context.evaluate import Curve as Curve
    from jaxtta.in_context.evaluate import Probe as Probe
    from jaxtta.in_context.evaluate import answer as answer
    from jaxtta.in_context.evaluate import meta_test as meta_test
    from jaxtta.in_context.evaluate import online as online
    from jaxtta.in_context.evaluate import predict as predict
    from jaxtta.in_context.evaluate import score as score
    from jaxtta.in_context.gradient_learners import gradient_learner as gradient_learner
    from jaxtta.in_context.gradient_learners import mlp as mlp
    from jaxtta.in_context.learner import Learner as Learner
    from jaxtta.in_context.learner import Memory as Memory
    from jaxtta.in_context.recurrent import fast_weights as fast_weights
    from jaxtta.in_context.recurrent import lstm as lstm
    from jaxtta.in_context.recurrent import outer_product_lstm as outer_product_lstm
    from jaxtta.in_context.regimes import REGIMES as REGIMES
    from jaxtta.in_context.regimes import classify_run as classify_run
    from jaxtta.in_context.regimes import ends as ends
    from jaxtta.in_context.regimes import plateau_length as plateau_length
    from jaxtta.in_context.sequences import Data as Data
    from jaxtta.in_context.sequences import Sequences as Sequences
    from jaxtta.in_context.sequences import sampler as sampler
    from jaxtta.in_context.tasks import FIRST_UNSEEN as FIRST_UNSEEN
    from jaxtta.in_context.tasks import MAX_TASKS as MAX_TASKS
    from jaxtta.in_context.tasks import Projection as Projection
    from jaxtta.in_context.tasks import Task as Task
    from jaxtta.in_context.tasks import bias_at as bias_at
    from jaxtta.in_context.tasks import sample_task as sample_task
    from jaxtta.in_context.train import meta_training as meta_training
    from jaxtta.in_context.transformer import transformer as transformer
    from jaxtta.in_context.vsml import unsymmetric_vsml as unsymmetric_vsml
    from jaxtta.in_context.vsml import vsml as vsml

lazy(__name__)
