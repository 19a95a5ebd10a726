"""Autoencoders of images: networks, data, and training by natural and by ordinary gradients.

Source: Bernacchia, Lengyel, Hennequin, NeurIPS 2018, section 4 and their code.
"""

from ong.natural.autoencoder.data import AutoencoderData, Images, prepare, reconstructions
from ong.natural.autoencoder.history import DivergedError, EpochRecord, reached
from ong.natural.autoencoder.nets import NETS, make_net, widths_of
from ong.natural.autoencoder.strategies import STRATEGIES, Strategy, strategy_of
from ong.natural.autoencoder.training import Trainer, train

__all__ = [
    "NETS",
    "STRATEGIES",
    "AutoencoderData",
    "DivergedError",
    "EpochRecord",
    "Images",
    "Strategy",
    "Trainer",
    "make_net",
    "prepare",
    "reached",
    "reconstructions",
    "strategy_of",
    "train",
    "widths_of",
]
