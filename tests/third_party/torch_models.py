"""Of torch.nn alone: recurrent nets, attention, weights that are normalised, weights that are shared."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from third_party.cases import CLASSES, WORDS, Case, Pooled, images, sequences, whole_texts
from torch import Tensor, nn
from torch.nn.utils import parametrizations


class TiedWords(nn.Module):
    """Scores every word with the embedding that it reads words by, and adds some of the scores up."""

    def __init__(self) -> None:
        super().__init__()
        self.words, self.body = nn.Embedding(WORDS, 6), nn.GRU(6, 6, batch_first=True)
        self.scores = nn.Linear(6, WORDS, bias=False)
        self.scores.weight = self.words.weight

    def forward(self, input_ids: Tensor) -> Tensor:
        scores: Tensor = self.scores(self.body(self.words(input_ids))[0].mean(1))
        return scores[:, :CLASSES]


def _mlp(normalised: Callable[[nn.Module], nn.Module]) -> nn.Module:
    return nn.Sequential(
        nn.Flatten(), normalised(nn.Linear(48, 10)), nn.Tanh(), normalised(nn.Linear(10, 8)), nn.ReLU(), nn.Linear(8, CLASSES)
    )  # fmt: skip


def _transformer() -> nn.Module:
    layer = nn.TransformerEncoderLayer(8, 2, 12, 0.1, batch_first=True)
    return Pooled(nn.TransformerEncoder(layer, 2), 8)


CASES: dict[str, Case] = {
    "LSTM": Case(lambda: Pooled(nn.LSTM(4, 5, 2, dropout=0.2, batch_first=True, bidirectional=True), 10), sequences(4)),
    "LSTM with a projection": Case(lambda: Pooled(nn.LSTM(4, 6, batch_first=True, proj_size=3), 3), sequences(4)),
    "GRU": Case(lambda: Pooled(nn.GRU(4, 6, 2, batch_first=True), 6), sequences(4)),
    "TransformerEncoder": Case(_transformer, sequences(8)),
    "weight norm": Case(lambda: _mlp(parametrizations.weight_norm), images(4)),
    "weight norm by a hook": Case(lambda: _mlp(torch.nn.utils.weight_norm), images(4)),
    "spectral norm": Case(lambda: _mlp(parametrizations.spectral_norm), images(4)),
    "orthogonal weights": Case(lambda: _mlp(partial(parametrizations.orthogonal, orthogonal_map="cayley")), images(4)),
    "tied words": Case(TiedWords, whole_texts),
}
