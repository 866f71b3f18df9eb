"""A causal transformer that predicts the next word, character or byte of a text."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self, TypeVar, cast

import numpy as np
import torch
from torch import Tensor, nn

from tasks.base import Batch, Data, Task, check_sizes
from tasks.corpora import Corpus, read_corpus

Stream = TypeVar("Stream", np.ndarray, Tensor)
EVALUATION_FLOATS = 2**25
"""The largest piece of an evaluation: 128 MB of logits in float32, and as much again of their log-softmax."""


class LanguageModel(nn.Module):
    """A causal transformer encoder over token numbers (rows, tokens) with outputs (rows, tokens, vocabulary).

    Embedding times sqrt(width) plus sinusoidal positions, dropout, encoder layers (LayerNorm after each sum), a linear
    map to the vocabulary. Weights of embedding and map are uniform in (-0.1, 0.1), the map's bias is 0; each layer
    has PyTorch's own initialisation, drawn for itself. With V tokens, width d, hidden h and L layers it has
    2 V d + V + L (4 d^2 + 9 d + 2 d h + h) parameters.

    Source: Vaswani et al., "Attention is all you need", 2017 (arXiv 1706.03762).

    Args:
        vocabulary: number of kinds of tokens.
        width: of the embedding, divisible by ``heads``.
        heads, hidden, layers: of the encoder; ``hidden`` is the width of its feed-forward networks.
        length: the most tokens in a row.
        dropout: probability, of embedding, attention, feed-forward networks and sums.
        activation: of the feed-forward networks, "relu" or "gelu".
    """

    positions: Tensor
    mask: Tensor

    def __init__(
        self,
        vocabulary: int,
        *,
        width: int,
        heads: int,
        hidden: int,
        layers: int,
        length: int,
        dropout: float = 0.0,
        activation: str = "relu",
    ) -> None:
        super().__init__()
        self.embedding = nn.Embedding(vocabulary, width)
        self.dropout = nn.Dropout(dropout)

        def layer() -> nn.TransformerEncoderLayer:
            return nn.TransformerEncoderLayer(width, heads, hidden, dropout, activation, batch_first=True)

        self.encoder = nn.TransformerEncoder(layer(), layers, enable_nested_tensor=False)
        self.encoder.layers = nn.ModuleList(layer() for _ in range(layers))  # its own are copies of one draw
        self.head = nn.Linear(width, vocabulary)
        self.register_buffer("positions", sinusoids(length, width), persistent=False)
        self.register_buffer("mask", nn.Transformer.generate_square_subsequent_mask(length), persistent=False)
        nn.init.uniform_(self.embedding.weight, -0.1, 0.1)
        nn.init.uniform_(self.head.weight, -0.1, 0.1)
        nn.init.zeros_(self.head.bias)

    def forward(self, tokens: Tensor) -> Tensor:
        length, width = tokens.shape[1], self.embedding.embedding_dim
        hidden = self.dropout(self.embedding(tokens) * math.sqrt(width) + self.positions[:length])
        return self.head(self.encoder(hidden, mask=self.mask[:length, :length], is_causal=True))


def sinusoids(length: int, width: int) -> Tensor:
    """Positions as in section 3.5 of the paper: sines and cosines in turn, (length, width)."""
    even = torch.arange(0, width, 2, dtype=torch.float64)
    angles = torch.arange(length, dtype=torch.float64)[:, None] / 10000 ** (even / width)
    return torch.stack([angles.sin(), angles.cos()], dim=-1).flatten(1)[:, :width].float()


@dataclass(frozen=True)
class TextData(Data):
    """Windows, as views of one stream per split.

    Attributes:
        streams: the token numbers of each split, (tokens,) int64.
    """

    streams: Mapping[str, np.ndarray] = field(kw_only=True)

    def arrays(self) -> Iterable[np.ndarray]:
        """The streams: windows of inputs and of targets hold each token twice, the rest not."""
        return self.streams.values()


def text_data(corpus: Corpus, length: int, token: str) -> TextData:
    """A text in windows of a length.

    Args:
        token: what a symbol of it is called in an error.

    Raises:
        ValueError: a split has not one window.
    """
    for split, stream in corpus.streams.items():
        if len(stream) <= length:
            raise ValueError(
                f"{corpus.name}: {split} has {len(stream)} {token}s, too few for one window; expected at least "
                f"{length + 1}, length {length} and the {token} after it"
            )
    splits = {split: windows(stream, length) for split, stream in corpus.streams.items()}
    return TextData(corpus.name, splits, corpus.source, streams=corpus.streams)


def worst_of_guesses(kinds: int) -> dict[str, float]:
    """What a diverged run gets where the next of so many kinds of tokens is predicted: as if it guessed; the bound on
    the loss is ten times that."""
    return {"loss": 10 * math.log(kinds), "acc": 1 / kinds, "ppl": float(kinds)}


class Transformer(Task):
    """A causal transformer language model with cross-entropy over every predicted token.

    Training rows are the windows of ``length`` tokens that follow each other in the training text, each token's
    target being the next; they do not overlap. An evaluation takes the whole split: all windows, then the shorter
    rest. Metrics: loss (in nats per token), acc, ppl = exp(loss).

    Args:
        dataset: words, chars or bytes of a text file, or of a folder with train.txt, valid.txt and test.txt; or
            stdlib, the bytes of Python's own source, which needs no file.
        width, heads, hidden, layers, dropout: of the network.
        length: tokens in a window.
        vocabulary: this many most frequent words or characters, all others are ``<unk>``; None: all.
        tokens: train on the first so many tokens of the training text; None: on all.
        held_out_tokens: validate and test on the first so many of their texts; None: on all.

    Raises:
        ValueError: a size is not positive, ``width`` is not divisible by ``heads``, or ``dropout`` is not in [0, 1).
    """

    def __init__(
        self,
        *,
        dataset: str,
        width: int,
        heads: int,
        hidden: int,
        layers: int,
        dropout: float,
        length: int,
        vocabulary: int | None = None,
        tokens: int | None = None,
        held_out_tokens: int | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(dataset=dataset, **kwargs)
        sizes = {"width": width, "heads": heads, "hidden": hidden, "layers": layers, "length": length}
        limits = {"vocabulary": vocabulary, "tokens": tokens, "held_out_tokens": held_out_tokens}
        check_sizes(**sizes, **{name: limit for name, limit in limits.items() if limit is not None})
        if width % heads:
            raise ValueError(f"width must be divisible by heads, got width {width} and heads {heads}")
        if not 0 <= dropout < 1:
            raise ValueError(f"dropout must be at least 0 and below 1, got {dropout:g}")
        self.architecture: dict[str, Any] = {**sizes, "dropout": dropout}
        self.length = length
        self.limits = limits

    def load(self, data_dir: Path | None) -> TextData:
        corpus = read_corpus(str(self.dataset), data_dir, **self.limits)
        data = text_data(corpus, self.length, "token")
        self.kinds = len(corpus.symbols)
        self.worst = worst_of_guesses(self.kinds)
        widest = max(self.kinds, 8 * self.architecture["width"], 4 * self.architecture["hidden"])
        self.evaluation_rows = max(1, EVALUATION_FLOATS // (self.length * widest))
        return data

    def on_device(self, data: Data) -> dict[str, Batch]:
        """Each split is one stream on the device, its windows are views."""
        streams = cast(TextData, data).streams
        self.streams = {split: torch.from_numpy(stream).to(self.device) for split, stream in streams.items()}
        return {split: windows(stream, self.length) for split, stream in self.streams.items()}

    def shortened(self, rows: int) -> Self:
        twin = super().shortened(rows)
        twin.streams = {split: stream[: rows * self.length + 1] for split, stream in self.streams.items()}
        return twin

    def network(self) -> nn.Module:
        return LanguageModel(self.kinds, **self.architecture)

    def criterion(self, outputs: Tensor, targets: Tensor) -> Tensor:
        return nn.functional.cross_entropy(outputs.flatten(0, 1), targets.flatten())

    def score(self, model: nn.Module, split: str) -> dict[str, Tensor]:
        """Metrics over every token of the split but the first, which nothing predicts; sums are float64."""
        loss = torch.zeros((), dtype=torch.float64, device=self.device)
        hits = torch.zeros((), dtype=torch.int64, device=self.device)
        inputs, targets = self.splits[split]
        stream, done = self.streams[split], inputs.numel()
        pieces = list(zip(inputs.split(self.evaluation_rows), targets.split(self.evaluation_rows), strict=True))
        if done < len(stream) - 1:
            pieces.append((stream[None, done:-1], stream[None, done + 1 :]))
        for tokens, following in pieces:
            logits = model(self.prepare(tokens)).flatten(0, 1)
            loss = loss + nn.functional.cross_entropy(logits, following.flatten(), reduction="none").double().sum()
            hits = hits + (logits.argmax(dim=1) == following.flatten()).sum()
        mean = loss / (len(stream) - 1)
        return {"loss": mean, "acc": hits.double() / (len(stream) - 1), "ppl": mean.exp()}


def windows(stream: Stream, length: int) -> tuple[Stream, Stream]:
    """Views of a stream: its windows that have a token after them, and the same one token later, (windows, length)."""
    end = (len(stream) - 1) // length * length
    return stream[:end].reshape(-1, length), stream[1 : end + 1].reshape(-1, length)
