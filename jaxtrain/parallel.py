"""Device axes in one name: reductions (`collectives`) and execution modes (`execution`)."""

from jaxtrain.collectives import AxisName as AxisName
from jaxtrain.collectives import axis_size as axis_size
from jaxtrain.collectives import fold_in_axis as fold_in_axis
from jaxtrain.collectives import gather as gather
from jaxtrain.collectives import local_value_and_grad as local_value_and_grad
from jaxtrain.collectives import mark_varying as mark_varying
from jaxtrain.collectives import mark_varying_like as mark_varying_like
from jaxtrain.collectives import masked_mean as masked_mean
from jaxtrain.collectives import pmax as pmax
from jaxtrain.collectives import pmean as pmean
from jaxtrain.collectives import psum as psum
from jaxtrain.collectives import value_and_grad as value_and_grad
from jaxtrain.execution import DATA_AXIS as DATA_AXIS
from jaxtrain.execution import MODES as MODES
from jaxtrain.execution import REPLICATED as REPLICATED
from jaxtrain.execution import SHARDED as SHARDED
from jaxtrain.execution import Execution as Execution
from jaxtrain.execution import Mode as Mode
from jaxtrain.execution import compile_update as compile_update
from jaxtrain.execution import jit_update as jit_update
from jaxtrain.execution import make_mesh as make_mesh
from jaxtrain.execution import place as place
from jaxtrain.execution import place_batch as place_batch
