"""Networks, and adapters that turn a network into a `Model`."""

from jaxtrain.nets.linen import from_linen as from_linen
