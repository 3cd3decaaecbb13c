"""What all algorithms need: protocol, device axes, parameter trees, networks, schedules."""

from typing import TYPE_CHECKING

from jaxtrain.faces import lazy

if TYPE_CHECKING:
    from jaxtrain import core as core
    from jaxtrain import diffusion as diffusion
    from jaxtrain import lm as lm
    from jaxtrain import nets as nets
    from jaxtrain import optimizers as optimizers
    from jaxtrain import parallel as parallel
    from jaxtrain import protocol as protocol
    from jaxtrain import schedules as schedules
    from jaxtrain import trees as trees
    from jaxtrain.core import EmaState as EmaState
    from jaxtrain.core import Held as Held
    from jaxtrain.core import HoldingState as HoldingState
    from jaxtrain.core import TrainState as TrainState
    from jaxtrain.core import episodic as episodic
    from jaxtrain.core import holding as holding
    from jaxtrain.core import on_arrays as on_arrays
    from jaxtrain.core import repeat as repeat
    from jaxtrain.core import supervised as supervised
    from jaxtrain.core import with_ema as with_ema
    from jaxtrain.parallel import Execution as Execution
    from jaxtrain.protocol import Core as Core
    from jaxtrain.protocol import HostCore as HostCore
    from jaxtrain.protocol import Model as Model
    from jaxtrain.protocol import StepOutput as StepOutput

lazy(__name__)
