"""The transformer task: network, windows and metrics against NumPy and the paper's formulas."""

import hashlib
import math
import warnings

import numpy as np
import pytest
import torch
from torch import nn

import optimizers
from optimizers.curvature.gauss_newton import GGNMC, GGNExact
from tasks.transformer import LanguageModel, Transformer, sinusoids
from tests.support.networks import Once, Problem, estimate, gauss_newton, relative_error
from tuner.config.layers import resolve
from tuner.training.build import make_task
from tuner.training.records import Budget
from tuner.training.single import train

SMALL = {"width": 8, "heads": 2, "hidden": 6, "layers": 2, "dropout": 0.2, "length": 5}
TEXT = "to be or not to be that is the question\n" * 3 + "whether tis nobler in the mind to suffer\n" * 2
SPLITS = ("train", "val", "test")


def make(folder=None, *, batch_size=4, dataset="chars", **changed):
    task = Transformer(metric="val_loss", mode="min", batch_size=batch_size, dataset=dataset, **(SMALL | changed))
    if folder is not None:
        task.setup(folder, torch.device("cpu"))
    return task


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    made = tmp_path_factory.mktemp("tiny")
    (made / "train.txt").write_text(TEXT)
    (made / "valid.txt").write_text("to be the mind of the question\n")
    (made / "test.txt").write_text("is that not nobler\nor to suffer\n")
    return made


@pytest.fixture(scope="module")
def task(folder):
    return make(folder)


def numbers(text):
    """Characters numbered from 1: those most frequent in TEXT first, then by first appearance; 0 for others."""
    order = sorted(set(TEXT), key=lambda c: (-TEXT.count(c), TEXT.index(c)))
    return [order.index(c) + 1 if c in order else 0 for c in text]


def test_windows_follow_each_other_and_targets_are_the_next_tokens(task):
    stream = numbers(TEXT)
    inputs, targets = task.splits["train"]
    count = (len(stream) - 1) // 5
    assert inputs.tolist() == [stream[5 * i : 5 * i + 5] for i in range(count)]
    assert targets.tolist() == [stream[5 * i + 1 : 5 * i + 6] for i in range(count)]
    assert inputs.dtype == targets.dtype == torch.int64


@pytest.mark.parametrize("tokens", [6, 10, 11, 12, 15])
def test_a_window_needs_the_token_after_it(folder, tokens):
    task = make(folder, tokens=tokens)
    assert len(task.splits["train"][0]) == (tokens - 1) // 5


def test_windows_are_views_of_one_stream(task):
    for split in SPLITS:
        storages = {tensor.untyped_storage().data_ptr() for tensor in (*task.splits[split], task.streams[split])}
        assert len(storages) == 1


@pytest.mark.parametrize("batch_size", [1, 4, 1000])
def test_an_epoch_has_each_window_once_with_its_targets(folder, batch_size):
    task = make(folder, batch_size=batch_size)
    pairs = sorted(zip(*(t.tolist() for t in task.splits["train"]), strict=True))
    batches = list(task.batches(3, 1))
    assert sorted((x.tolist(), y.tolist()) for xs, ys in batches for x, y in zip(xs, ys, strict=True)) == pairs
    assert len(batches) == task.steps_per_epoch == -(-len(pairs) // batch_size)


def test_orders_depend_on_seed_and_epoch(task):
    def order(seed, epoch):
        return tuple(tuple(row) for inputs, _ in task.batches(seed, epoch) for row in inputs.tolist())

    assert order(0, 0) == order(0, 0)
    assert len({order(seed, epoch) for seed in range(3) for epoch in range(3)}) == 9


class Bigrams(nn.Module):
    """Logits of the next token are a row of a table."""

    def __init__(self, kinds):
        super().__init__()
        self.table = torch.from_numpy(np.random.default_rng(5).normal(0, 3, (kinds, kinds)).astype(np.float32))

    def forward(self, tokens):
        return self.table[tokens]


@pytest.mark.parametrize("split", SPLITS)
@pytest.mark.parametrize("rows", [1, 3, 4096])
@pytest.mark.parametrize("length", [1, 5, 7, 30])
def test_metrics_are_over_every_token_but_the_first(folder, split, rows, length):
    task = make(folder, length=length)
    task.evaluation_rows = rows
    model = Bigrams(task.kinds)
    stream = np.array(numbers((folder / {"val": "valid.txt"}.get(split, f"{split}.txt")).read_text()))
    logits = model.table.numpy().astype(np.float64)[stream[:-1]]
    log_prob = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
    loss = -log_prob[np.arange(len(stream) - 1), stream[1:]].mean()
    assert task.evaluate(model, split) == {
        "loss": pytest.approx(loss, rel=1e-6),
        "acc": pytest.approx((logits.argmax(axis=1) == stream[1:]).mean(), rel=1e-12),
        "ppl": pytest.approx(np.exp(loss), rel=1e-5),
    }


def test_evaluation_of_the_network_is_without_dropout_and_its_fast_path_agrees(task):
    model = task.build(0)
    stream = task.streams["val"]
    model.eval()
    logits = []
    for start in range(0, len(stream) - 1, 5):  # with gradients there is no fast path
        logits.append(model(stream[None, start : min(start + 5, len(stream) - 1)])[0].detach())
    expected = nn.functional.cross_entropy(torch.cat(logits).double(), stream[1:]).item()
    model.train()
    assert task.evaluate(model, "val")["loss"] == pytest.approx(expected, rel=1e-5)
    assert model.training


def test_a_hopeless_loss_gives_infinite_perplexity_and_no_error(task):
    model = Bigrams(task.kinds)
    model.table = model.table * 1e4
    metrics = task.evaluate(model, "val")
    assert metrics["loss"] > 710 and metrics["ppl"] == math.inf


def test_worst_values_are_those_of_a_uniform_guess_and_ten_times_its_loss(task):
    kinds = len(set(TEXT)) + 1
    assert task.worst == {"loss": pytest.approx(10 * np.log(kinds)), "acc": pytest.approx(1 / kinds), "ppl": kinds}
    assert set(task.worst) == set(task.evaluate(task.build(0), "val"))


@pytest.mark.parametrize("length", [5, 350])
def test_logits_of_a_piece_of_an_evaluation_are_bounded(tmp_path, length):
    (tmp_path / "many.txt").write_text(" ".join(map(str, range(22_000))))
    task = make(tmp_path, dataset="words", length=length)
    assert task.kinds > 19_000
    assert 2**26 < task.evaluation_rows * length * task.kinds * 4 <= 2**28  # 64 to 256 MB


def test_a_small_vocabulary_does_not_make_the_layers_of_an_evaluation_large():
    task = make(dataset="stdlib", length=35, width=512, hidden=2048, heads=8, tokens=1000, held_out_tokens=100)
    task.setup(None, torch.device("cpu"))
    assert task.evaluation_rows * 35 * 2048 * 4 <= 2**28


def test_the_summary_counts_each_token_once(task, folder):
    texts = [(folder / name).read_text() for name in ("train.txt", "valid.txt", "test.txt")]
    streams = [np.array(numbers(text), dtype=np.int64) for text in texts]
    assert task.data_summary == {
        "name": f"chars of {folder.name}, {len(set(TEXT)) + 1} kinds",
        "source": str(folder),
        "rows": {split: (len(stream) - 1) // 5 for split, stream in zip(SPLITS, streams, strict=True)},
        "bytes": 8 * sum(map(len, streams)),
        "sha256": hashlib.sha256(b"".join(stream.tobytes() for stream in streams)).hexdigest(),
    }


def test_positions_are_the_papers():
    table = sinusoids(50, 6)
    for position in (0, 1, 7, 49):
        for i in range(3):
            angle = position / 10000 ** (2 * i / 6)
            assert table[position, 2 * i].item() == pytest.approx(math.sin(angle), abs=1e-6)
            assert table[position, 2 * i + 1].item() == pytest.approx(math.cos(angle), abs=1e-6)
    assert table.dtype == torch.float32 and sinusoids(4, 5).shape == (4, 5)


def test_without_layers_outputs_are_the_map_of_scaled_embedding_and_positions():
    model = LanguageModel(7, width=6, heads=2, hidden=4, layers=1, length=9).eval()
    model.encoder = Passing()
    tokens = torch.tensor([[3, 1, 6], [0, 0, 5]])
    table, weight = model.embedding.weight.detach().numpy(), model.head.weight.detach().numpy()
    hidden = table[tokens.numpy()] * np.sqrt(6) + sinusoids(3, 6).numpy()
    np.testing.assert_allclose(model(tokens).detach().numpy(), hidden @ weight.T, rtol=1e-5, atol=1e-6)
    assert model.encoder.causal


def test_dropout_is_on_the_sum_of_embedding_and_positions():
    torch.manual_seed(0)
    model = LanguageModel(7, width=64, heads=2, hidden=4, layers=1, length=9, dropout=0.25)
    model.encoder, model.head = Passing(), nn.Identity()
    tokens = torch.randint(0, 7, (50, 9))
    whole, dropped = model.eval()(tokens), model.train()(tokens)
    assert (dropped == 0).float().mean().item() == pytest.approx(0.25, abs=0.01)  # of 28,800; 4 standard deviations
    torch.testing.assert_close(dropped, torch.where(dropped == 0, 0.0, whole / 0.75))


class Passing(nn.Module):
    """In place of the encoder."""

    def forward(self, hidden, mask, is_causal):
        self.causal = is_causal and torch.equal(mask == 0, torch.ones_like(mask).tril() == 1)
        return hidden


@pytest.mark.parametrize("fast", [False, True])
@pytest.mark.parametrize("activation", ["relu", "gelu"])
def test_later_tokens_do_not_change_earlier_outputs(fast, activation):
    model = LanguageModel(11, width=8, heads=2, hidden=6, layers=2, length=6, dropout=0.2, activation=activation).eval()
    tokens = torch.tensor([[1, 2, 3, 4, 5, 6]])
    with torch.set_grad_enabled(not fast):
        before = model(tokens)
        for place in range(6):
            changed = tokens.clone()
            changed[0, place] = 10
            after = model(changed)
            torch.testing.assert_close(after[:, :place], before[:, :place], rtol=0, atol=1e-6)
            assert all((after[0, later] - before[0, later]).abs().max() > 1e-4 for later in range(place, 6))


def test_a_training_step_is_causal_too():
    torch.manual_seed(0)
    model = LanguageModel(11, width=8, heads=2, hidden=6, layers=2, length=6).train()
    embedded = []
    model.embedding.register_forward_hook(lambda module, args, output: embedded.append(output))
    weights = torch.linspace(-1, 1, 11)  # LayerNorm takes the plain sum of outputs near a constant
    outputs = model(torch.tensor([[1, 2, 3, 4, 5, 6]]))
    (grad,) = torch.autograd.grad((outputs[0, 2] * weights).sum(), embedded)
    sizes = grad[0].abs().sum(dim=1)
    assert (sizes[:3] > 1e-4).all() and (sizes[3:] == 0).all()


@pytest.mark.parametrize(("kinds", "width", "hidden", "layers"), [(7, 4, 6, 1), (100, 8, 3, 3)])
def test_parameter_count(kinds, width, hidden, layers):
    model = LanguageModel(kinds, width=width, heads=2, hidden=hidden, layers=layers, length=5)
    attention = 3 * (width * width + width) + (width * width + width)
    feed_forward = (width * hidden + hidden) + (hidden * width + width)
    norms = 2 * 2 * width
    expected = kinds * width + layers * (attention + feed_forward + norms) + (width * kinds + kinds)
    assert sum(p.numel() for p in model.parameters()) == expected
    assert not model.state_dict().keys() & {"mask", "positions"}


def test_weights_are_as_the_protocol_says():
    torch.manual_seed(0)
    model = LanguageModel(500, width=16, heads=2, hidden=6, layers=3, length=5)
    for weight in (model.embedding.weight, model.head.weight):
        assert 0.0995 < weight.max() <= 0.1 and -0.1 <= weight.min() < -0.0995
        assert weight.std().item() == pytest.approx(0.1 / math.sqrt(3), rel=0.02)
    assert (model.head.bias == 0).all()
    first, second, third = (layer.linear1.weight for layer in model.encoder.layers)
    assert not torch.equal(first, second) and not torch.equal(second, third)
    assert len({id(p) for p in model.parameters()}) == len(list(model.parameters()))


def test_same_seed_same_weights_and_other_seed_other_weights(task):
    def digest(seed):
        return hashlib.sha256(b"".join(p.detach().numpy().tobytes() for p in task.build(seed).parameters())).hexdigest()

    assert digest(0) == digest(0) != digest(1)


def test_loss_is_the_mean_over_all_predictions(task):
    model = task.build(0).eval()
    batch = next(task.batches(0, 0))
    loss, outputs = task.loss(model, batch)
    assert outputs.shape == (4, 5, task.kinds)
    logits = outputs.detach().double().numpy()
    log_prob = logits - np.log(np.exp(logits).sum(axis=2, keepdims=True))
    picked = np.take_along_axis(log_prob, batch[1].numpy()[..., None], axis=2)
    assert loss.item() == pytest.approx(-picked.mean(), rel=1e-6)


@pytest.mark.parametrize("estimator", ["hutchinson", "ggn_mc", "gnb", "hvp"])
def test_curvature_can_be_estimated(task, estimator):
    model = task.build(0).train()
    optimizer = optimizers.SADH(model.parameters(), lr=1e-3, estimator=estimator)
    torch.manual_seed(0)
    batches = list(task.batches(0, 0))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for batch in batches[:2]:
            optimizer.step(lambda batch=batch: task.loss(model, batch))
    assert all(p.isfinite().all() for p in model.parameters())


def test_gauss_newton_estimates_are_those_of_brute_force():
    torch.manual_seed(0)
    model = LanguageModel(4, width=4, heads=2, hidden=3, layers=2, length=4).double().train()
    with torch.no_grad():
        for param in model.parameters():
            param += 0.3 * torch.randn_like(param)
    problem = Problem(model, torch.tensor([[0, 1, 1, 3], [3, 2, 0, 0], [1, 2, 3, 1]]), of_fixed_labels)
    expected = gauss_newton(problem)
    assert relative_error(estimate(GGNExact(), problem), expected) < 1e-9
    draw_one = Once(GGNMC(), problem, problem.params)
    draws = [draw_one() for _ in range(300)]
    assert relative_error([torch.stack(d).mean(0) for d in zip(*draws, strict=True)], expected) < 0.15


def of_fixed_labels(outputs):
    labels = torch.tensor([[1, 1, 3, 2], [2, 0, 0, 1], [2, 3, 1, 0]])
    return nn.functional.cross_entropy(outputs.flatten(0, 1), labels.flatten())


BAD = {
    "width must be divisible by heads, got width 8 and heads 3": {"heads": 3},
    "width must be a whole number of at least 1, got 0": {"width": 0},
    "heads must be a whole number of at least 1, got -2": {"heads": -2},
    "hidden must be a whole number of at least 1, got 2.5": {"hidden": 2.5},
    "layers must be a whole number of at least 1, got 0": {"layers": 0},
    "length must be a whole number of at least 1, got 0": {"length": 0},
    "vocabulary must be a whole number of at least 1, got 0": {"vocabulary": 0},
    "tokens must be a whole number of at least 1, got '9'": {"tokens": "9"},
    "held_out_tokens must be a whole number of at least 1, got -1": {"held_out_tokens": -1},
    "dropout must be at least 0 and below 1, got 1": {"dropout": 1.0},
    "dropout must be at least 0 and below 1, got -0.1": {"dropout": -0.1},
}


@pytest.mark.parametrize(("message", "changed"), BAD.items())
def test_bad_arguments_are_refused(message, changed):
    with pytest.raises(ValueError, match=f"^{message}$"):
        make(**changed)


@pytest.mark.parametrize("split", SPLITS)
def test_a_text_too_short_for_one_window_is_refused(tmp_path, split):
    for name in ("train.txt", "valid.txt", "test.txt"):
        (tmp_path / name).write_text("abcde" if name[:2] == split[:2] else "abcdef")
    message = f"{split} has 5 tokens, too few for one window; expected at least 6, length 5 and the token after it"
    with pytest.raises(ValueError, match=rf"^chars of {tmp_path.name}, \d kinds: {message}$"):
        make(tmp_path)


def test_training_learns_a_periodic_text_and_twice_is_the_same(tmp_path):
    (tmp_path / "abc.txt").write_text("abcd" * 250)
    task = make(tmp_path, dropout=0.1, batch_size=16)
    curves = []
    for _ in range(2):
        curve = []
        result = train(
            task, lambda params, hp: torch.optim.Adam(params, **hp), {"lr": 0.02}, 0, Budget(4, 2, True), curve.append
        )
        curves.append([evaluation.metrics for evaluation in curve])
    assert curves[0] == curves[1]
    assert result.status == "complete" and result.metrics["test_loss"] < 0.3 < curves[0][0]["val_loss"]


@pytest.mark.parametrize("preset", ["smoke", "default", "paper"])
def test_the_presets_make_the_task(preset):
    config = resolve({"task.name": "transformer", "task.dataset": "stdlib", "preset": preset})
    task = make_task(config)
    task.setup(None, torch.device("cpu"))
    assert task.build(0)(task.splits["val"][0][:1]).shape == (1, task.length, 256)


def test_the_paper_preset_is_the_protocols():
    config = resolve({"task.name": "transformer", "preset": "paper"})
    assert config.task.args == {
        "width": 256, "heads": 4, "hidden": 256, "layers": 4, "dropout": 0.2, "length": 35,
        "vocabulary": None, "tokens": None, "held_out_tokens": None,
    }  # fmt: skip
    said = config.train
    assert (said.batch_size, said.epochs, said.schedule, said.final_lr, said.clip_grad_norm) == (
        128,
        64,
        "cosine",
        0.1,
        1,
    )
