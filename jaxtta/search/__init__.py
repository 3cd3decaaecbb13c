"""Choosing among samples of a language model, and searching for better ones.

chosen = majority(answers)                                   # index of the sample, per problem
chance = pass_at_k(correct.sum(-1), num_samples=64, k=8)     # without bias, from one pool
"""

from typing import TYPE_CHECKING

from jaxtrain.faces import lazy

if TYPE_CHECKING:
    from jaxtta.search.budget import geometric_budgets as geometric_budgets
    from jaxtta.search.budget import iterative_deepening as iterative_deepening
    from jaxtta.search.selection import best as best
    from jaxtta.search.selection import best_at_k as best_at_k
    from jaxtta.search.selection import majority as majority
    from jaxtta.search.selection import pass_at_k as pass_at_k
    from jaxtta.search.selection import self_certainty as self_certainty
    from jaxtta.search.selection import subset_curve as subset_curve
    from jaxtta.search.selection import weighted as weighted

lazy(__name__)
