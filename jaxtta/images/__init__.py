"""Test-time adaptation of image classifiers: every method is a core on any network.

    core = jaxtta.images.tent(apply_fn, optax.adam(1e-3))
    state = core.init(params, model_state)
    state, out = jax.jit(core.update)(state, {"inputs": images}, key)   # out.outputs.logits

What a method knows of the source is a further argument of `init`: `eata` takes the Fisher diagonal,
`rmt` prototypes and images to replay, `adanpc` features and labels.

A file has the name of its method; `entropy`, `mean_teacher`, `batch_statistics`, `source_features`
and `denoising` are frames that several methods share. `changes` holds what happens to images.
"""

from typing import TYPE_CHECKING

from jaxtrain.faces import lazy

if TYPE_CHECKING:
    from jaxtta.images import changes as changes
    from jaxtta.images.adanpc import adanpc as adanpc
    from jaxtta.images.batch_statistics import alpha_norm as alpha_norm
    from jaxtta.images.batch_statistics import batch_norm as batch_norm
    from jaxtta.images.batch_statistics import core as core
    from jaxtta.images.batch_statistics import ema_norm as ema_norm
    from jaxtta.images.batch_statistics import source as source
    from jaxtta.images.cafa import ClassGaussians as ClassGaussians
    from jaxtta.images.cafa import cafa as cafa
    from jaxtta.images.cafa import class_gaussians as class_gaussians
    from jaxtta.images.denoising import Diffusion as Diffusion
    from jaxtta.images.deyo import deyo as deyo
    from jaxtta.images.eata import eata as eata
    from jaxtta.images.eata import eta as eta
    from jaxtta.images.eata import fisher_diagonal as fisher_diagonal
    from jaxtta.images.entropy import open_set as open_set
    from jaxtta.images.entropy import tent as tent
    from jaxtta.images.itta import itta as itta
    from jaxtta.images.label_shift import following as following
    from jaxtta.images.label_shift import with_adapter as with_adapter
    from jaxtta.images.lame import lame as lame
    from jaxtta.images.mean_teacher import cotta as cotta
    from jaxtta.images.memo import memo as memo
    from jaxtta.images.nhl import FirstLayer as FirstLayer
    from jaxtta.images.nhl import nhl as nhl
    from jaxtta.images.petal import Posterior as Posterior
    from jaxtta.images.petal import petal as petal
    from jaxtta.images.petal import swag_diagonal as swag_diagonal
    from jaxtta.images.rmt import class_prototypes as class_prototypes
    from jaxtta.images.rmt import rmt as rmt
    from jaxtta.images.roid import roid as roid
    from jaxtta.images.rotta import rotta as rotta
    from jaxtta.images.sar import sar as sar
    from jaxtta.images.sda import diffusion_projection as diffusion_projection
    from jaxtta.images.sda import sda as sda
    from jaxtta.images.source_features import extracted as extracted
    from jaxtta.images.vdp import vdp as vdp
    from jaxtta.images.vida import vida as vida

lazy(__name__)
