"""What a model knows about its own answers: judgements, consistency, and how far to trust them.

confidence = p_true(log_probs, true=[5], false=[6])          # read off the next token
confidence = agreement(answers)                              # share of the most frequent answer
curve = bins(confidence, correct, num_bins=10)
print(calibration_error(curve), auroc(confidence, correct))
"""

from typing import TYPE_CHECKING

from jaxtrain.faces import lazy

if TYPE_CHECKING:
    from jaxtta.self_evaluation.calibration import auroc as auroc
    from jaxtta.self_evaluation.calibration import bins as bins
    from jaxtta.self_evaluation.calibration import brier as brier
    from jaxtta.self_evaluation.calibration import calibration_error as calibration_error
    from jaxtta.self_evaluation.calibration import fitted_temperature as fitted_temperature
    from jaxtta.self_evaluation.calibration import revision as revision
    from jaxtta.self_evaluation.calibration import revision_of_options as revision_of_options
    from jaxtta.self_evaluation.consistency import agreement as agreement
    from jaxtta.self_evaluation.consistency import answer_entropy as answer_entropy
    from jaxtta.self_evaluation.consistency import checked_majority as checked_majority
    from jaxtta.self_evaluation.consistency import pairwise_agreement as pairwise_agreement
    from jaxtta.self_evaluation.token_judges import p_ik as p_ik
    from jaxtta.self_evaluation.token_judges import p_true as p_true
    from jaxtta.self_evaluation.token_judges import token_mass as token_mass
    from jaxtta.self_evaluation.token_judges import token_share as token_share

lazy(__name__)
