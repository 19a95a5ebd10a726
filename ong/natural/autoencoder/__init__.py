"""Autoencoders of images: networks, data, and training by natural and by ordinary gradients.

Source: Bernacchia, Lengyel, Hennequin, NeurIPS 2018, section 4 and their code.
"""

from ong.natural.autoencoder.data import AutoencoderData, Images, mean_image_loss, prepare, reconstructions
from ong.natural.autoencoder.history import DivergedError, EpochRecord
from ong.natural.autoencoder.nets import NETS, make_net, widths_of
from ong.natural.autoencoder.training import Trainer

__all__ = [
    "NETS",
    "AutoencoderData",
    "DivergedError",
    "EpochRecord",
    "Images",
    "Trainer",
    "make_net",
    "mean_image_loss",
    "prepare",
    "reconstructions",
    "widths_of",
]
