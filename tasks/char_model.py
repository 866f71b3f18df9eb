"""A small recurrent model that predicts the next byte of a text."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torch import Tensor, nn

from tasks.base import Task, check_sizes
from tasks.corpora import read_corpus
from tasks.recurrent import GRU
from tasks.transformer import TextData, text_data, worst_of_guesses

WIDTH, HIDDEN = 16, 48


class CharModel(Task):
    """A GRU of 48 units over embeddings of width 16 and a linear map to the next byte (26,144 parameters).

    Cross-entropy over every byte of windows that follow each other in the text and do not overlap; the state begins
    each window at 0. A rest shorter than a window is left out. Metrics: loss (in nats per byte), acc, ppl = exp(loss).

    Source: Graves, "Generating sequences with recurrent neural networks", 2013 (arXiv 1308.0850), in small; Cho et
    al., 2014 (arXiv 1406.1078), for the units.

    Args:
        dataset: stdlib, the bytes of Python's own source, of which each version of Python has its own; or bytes of a
            text file, or of a folder with train.txt, valid.txt and test.txt.
        length: bytes in a window.
        tokens: train on the first so many bytes of the training text; None: on all.
        held_out_tokens: validate and test on the first so many of their texts; None: on all.

    Raises:
        ValueError: a size is not a whole number of at least 1.
    """

    evaluation_rows = 512

    def __init__(
        self,
        *,
        dataset: str,
        length: int,
        tokens: int | None = None,
        held_out_tokens: int | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(dataset=dataset, **kwargs)
        limits = {"tokens": tokens, "held_out_tokens": held_out_tokens}
        check_sizes(length=length, **{name: limit for name, limit in limits.items() if limit is not None})
        self.length = length
        self.limits = limits

    def load(self, data_dir: Path | None) -> TextData:
        corpus = read_corpus(str(self.dataset), data_dir, **self.limits)
        data = text_data(corpus, self.length, "byte")
        self.kinds = len(corpus.symbols)
        self.worst = worst_of_guesses(self.kinds)
        return data

    def network(self) -> nn.Module:
        return nn.Sequential(nn.Embedding(self.kinds, WIDTH), GRU(WIDTH, HIDDEN), nn.Linear(HIDDEN, self.kinds))

    def criterion(self, outputs: Tensor, targets: Tensor) -> Tensor:
        return nn.functional.cross_entropy(outputs.flatten(0, 1), targets.flatten())

    def metrics(self, outputs: Tensor, targets: Tensor) -> dict[str, Tensor]:
        loss = self.criterion(outputs, targets).double()
        hits = (outputs.argmax(dim=2) == targets).double().mean()
        return {"loss": loss, "acc": hits, "ppl": loss.exp()}
