"""Learning-rate schedules: shapes, the infinite one, refinement, and AutoLRS around any core.

A schedule is an ordinary `optax.Schedule`; `make_schedule` turns the text of a config into one.
"""

from typing import TYPE_CHECKING

from jaxtrain.faces import lazy

if TYPE_CHECKING:
    from jaxtrain.schedules.applied import applied_rate as applied_rate
    from jaxtrain.schedules.applied import scheduled as scheduled
    from jaxtrain.schedules.autolrs import AutoLRSState as AutoLRSState
    from jaxtrain.schedules.autolrs import autolrs as autolrs
    from jaxtrain.schedules.autolrs import replay as replay
    from jaxtrain.schedules.autolrs import repositioned as repositioned
    from jaxtrain.schedules.autolrs_phases import AutoLRSConfig as AutoLRSConfig
    from jaxtrain.schedules.autolrs_phases import Phase as Phase
    from jaxtrain.schedules.autolrs_phases import phase_of as phase_of
    from jaxtrain.schedules.infinite import NEVER as NEVER
    from jaxtrain.schedules.infinite import AnnealState as AnnealState
    from jaxtrain.schedules.infinite import annealable as annealable
    from jaxtrain.schedules.infinite import branch_anneal as branch_anneal
    from jaxtrain.schedules.infinite import infinite_lr as infinite_lr
    from jaxtrain.schedules.infinite import infinite_schedule as infinite_schedule
    from jaxtrain.schedules.infinite import start_anneal as start_anneal
    from jaxtrain.schedules.refinement import RecordState as RecordState
    from jaxtrain.schedules.refinement import last_iterate_bound as last_iterate_bound
    from jaxtrain.schedules.refinement import record_grad_norms as record_grad_norms
    from jaxtrain.schedules.refinement import recorded_norms as recorded_norms
    from jaxtrain.schedules.refinement import refine_schedule as refine_schedule
    from jaxtrain.schedules.refinement import refined_weights as refined_weights
    from jaxtrain.schedules.refinement import schedule_from_weights as schedule_from_weights
    from jaxtrain.schedules.refinement import smooth_norms as smooth_norms
    from jaxtrain.schedules.shapes import SCHEDULES as SCHEDULES
    from jaxtrain.schedules.shapes import inverse_sqrt as inverse_sqrt
    from jaxtrain.schedules.shapes import make_schedule as make_schedule
    from jaxtrain.schedules.shapes import parse_call as parse_call
    from jaxtrain.schedules.shapes import repeated_cosine as repeated_cosine
    from jaxtrain.schedules.shapes import table_schedule as table_schedule
    from jaxtrain.schedules.shapes import warmup_constant as warmup_constant
    from jaxtrain.schedules.shapes import warmup_cosine as warmup_cosine
    from jaxtrain.schedules.shapes import warmup_linear as warmup_linear
    from jaxtrain.schedules.shapes import wsd as wsd

lazy(__name__)
