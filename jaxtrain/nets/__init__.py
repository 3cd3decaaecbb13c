"""Networks, their shared parts, and adapters that turn a network into a `Model`."""

from typing import TYPE_CHECKING

from jaxtrain.faces import lazy

if TYPE_CHECKING:
    from jaxtrain.nets.attention import attend as attend
    from jaxtrain.nets.attention import attend_fused as attend_fused
    from jaxtrain.nets.attention import attend_with_own as attend_with_own
    from jaxtrain.nets.attention import keep as keep
    from jaxtrain.nets.attention import rotary_angles as rotary_angles
    from jaxtrain.nets.attention import rotate as rotate
    from jaxtrain.nets.attention import with_room as with_room
    from jaxtrain.nets.classifier import Classified as Classified
    from jaxtrain.nets.classifier import ClassifierFn as ClassifierFn
    from jaxtrain.nets.classifier import classifier as classifier
    from jaxtrain.nets.equinox import from_equinox as from_equinox
    from jaxtrain.nets.linen import from_linen as from_linen
    from jaxtrain.nets.nnx import from_nnx as from_nnx
    from jaxtrain.nets.norm import BATCH as BATCH
    from jaxtrain.nets.norm import SOURCE as SOURCE
    from jaxtrain.nets.norm import Norm as Norm
    from jaxtrain.nets.resnet import ResNet as ResNet
    from jaxtrain.nets.resnet import cifar_resnet as cifar_resnet
    from jaxtrain.nets.resnet import resnet18 as resnet18
    from jaxtrain.nets.resnet import resnet26_gn as resnet26_gn
    from jaxtrain.nets.resnet import resnet50 as resnet50
    from jaxtrain.nets.resnet import resnext29 as resnext29
    from jaxtrain.nets.resnet import wide_resnet as wide_resnet
    from jaxtrain.nets.segmenter import Segmenter as Segmenter
    from jaxtrain.nets.segmenter import labelled_cross_entropy as labelled_cross_entropy
    from jaxtrain.nets.segmenter import per_pixel as per_pixel
    from jaxtrain.nets.torch_weights import import_torch as import_torch
    from jaxtrain.nets.transformer import Attention as Attention
    from jaxtrain.nets.transformer import FeedForward as FeedForward
    from jaxtrain.nets.transformer import TransformerBlock as TransformerBlock
    from jaxtrain.nets.two_tower import contrastive_loss as contrastive_loss
    from jaxtrain.nets.unet import UNet as UNet
    from jaxtrain.nets.vit import ViT as ViT
    from jaxtrain.nets.vit import vit_base as vit_base
    from jaxtrain.nets.vit import vit_small as vit_small

lazy(__name__)
