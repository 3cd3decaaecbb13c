"""Substrate of all algorithms: protocol, device axes, parameter trees, networks, schedules."""

from jaxtrain import lr_control as lr_control
from jaxtrain import parallel as parallel
from jaxtrain import refinement as refinement
from jaxtrain import schedules as schedules
from jaxtrain import trees as trees
from jaxtrain.core import Core as Core
from jaxtrain.core import EmaState as EmaState
from jaxtrain.core import Model as Model
from jaxtrain.core import StepOutput as StepOutput
from jaxtrain.core import TrainState as TrainState
from jaxtrain.core import episodic as episodic
from jaxtrain.core import repeat as repeat
from jaxtrain.core import supervised as supervised
from jaxtrain.core import with_ema as with_ema
from jaxtrain.parallel import Execution as Execution
