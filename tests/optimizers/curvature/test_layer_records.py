"""Layers' own sums of squares against the gradient of every sample, one by one."""

import pytest
import torch
from torch import nn
from torch.func import functional_call, grad, vmap
from torch.nn import functional as F  # noqa: N812

from optimizers.curvature import layer_records
from optimizers.curvature.layer_records import Lookup, Outer, Patches, Recorder, Scale, Shift, by_sample
from tests.support.networks import draw

SAMPLES = 4
TOKENS = torch.tensor([[0, 1, 1], [2, 2, 2], [4, 0, 1], [3, 0, 0]])

LAYERS = {
    "linear": (lambda: nn.Linear(3, 2), (SAMPLES, 3)),
    "linear, positions": (lambda: nn.Linear(3, 2), (SAMPLES, 5, 3)),
    "linear, a grid": (lambda: nn.Linear(3, 2), (SAMPLES, 2, 2, 3)),
    "convolution": (lambda: nn.Conv2d(2, 3, 3), (SAMPLES, 2, 5, 4)),
    "convolution, all options": (
        lambda: nn.Conv2d(4, 6, (2, 3), stride=(2, 1), padding=(1, 2), dilation=(1, 2), groups=2),
        (SAMPLES, 4, 5, 6),
    ),
    "convolution, one position": (lambda: nn.Conv2d(4, 4, 3, groups=2), (SAMPLES, 4, 3, 3)),
    "convolution, by channel": (lambda: nn.Conv2d(3, 3, 1, groups=3, bias=False), (SAMPLES, 3, 2, 2)),
    "embedding": (lambda: nn.Embedding(6, 3), TOKENS),
    "embedding, padding": (lambda: nn.Embedding(6, 3, padding_idx=0), TOKENS),
    "embedding, padding from the end": (lambda: nn.Embedding(6, 3, padding_idx=-2), TOKENS),
    "embedding, one token": (lambda: nn.Embedding(6, 3), TOKENS[:, 0]),
    "layer norm": (lambda: nn.LayerNorm(3), (SAMPLES, 3)),
    "layer norm, positions": (lambda: nn.LayerNorm(3), (SAMPLES, 5, 3)),
    "batch norm, evaluated": (lambda: nn.BatchNorm1d(3).eval(), (SAMPLES, 3)),
    "batch norm, positions": (lambda: nn.BatchNorm1d(3).eval(), (SAMPLES, 3, 5)),
    "batch norm, images": (lambda: nn.BatchNorm2d(3).eval(), (SAMPLES, 3, 2, 4)),
}


def layer(name):
    make, x = LAYERS[name]
    module = make().double()
    with torch.no_grad():
        for i, tensor in enumerate([*module.parameters(), *(b for b in module.buffers() if b.is_floating_point())]):
            tensor.copy_(draw(*tensor.shape, seed=i).abs() + 0.5)
    return module, x if isinstance(x, torch.Tensor) else draw(*x, seed=7)


def recorded(module, x):
    with Recorder(list(module.parameters())) as record:
        output = module(x)
    assert all(len(uses) == 1 for uses in record.uses.values())
    return output.detach(), [record.uses[id(p)][0] for p in module.parameters()]


def sample_gradients(module, x, vector):
    """Per parameter ``(samples, *shape)``, by torch.func."""
    params, buffers = dict(module.named_parameters()), dict(module.named_buffers())

    def dot(values, one, weights):
        return (functional_call(module, (values, buffers), (one[None],))[0] * weights).sum()

    found = vmap(grad(dot), in_dims=(None, 0, 0))({n: p.detach() for n, p in params.items()}, x, vector)
    return list(found.values())


@pytest.mark.parametrize("entries", [2**22, 40, 1], ids=["at once", "in chunks", "one by one"])
@pytest.mark.parametrize("name", LAYERS)
def test_totals_and_squares_are_those_of_the_samples_gradients(name, entries, monkeypatch):
    monkeypatch.setattr(layer_records, "SAMPLE_ENTRIES", entries)
    module, x = layer(name)
    output, uses = recorded(module, x)
    vectors = draw(2, *output.shape, seed=9)
    each = [sample_gradients(module, x, vector) for vector in vectors]
    for i, use in enumerate(uses):
        use.arrange(SAMPLES, batch_first=True)
        rows = by_sample(use.rows(vectors), SAMPLES, True, dim=1)
        torch.testing.assert_close(use.total(rows[0]), each[0][i].sum(0))
        torch.testing.assert_close(use.squares(rows), sum(gradients[i].square().sum(0) for gradients in each))


@pytest.mark.parametrize("name", ["linear, positions", "layer norm, positions", "embedding", "embedding, padding"])
def test_rows_ordered_by_position_give_the_same(name):
    module, x = layer(name)
    output, uses = recorded(module, x.transpose(0, 1).contiguous())
    vectors = draw(2, *output.transpose(0, 1).shape, seed=9)
    each = [sample_gradients(module, x, vector) for vector in vectors]
    for i, use in enumerate(uses):
        use.arrange(SAMPLES, batch_first=False)
        rows = by_sample(use.rows(vectors.transpose(1, 2)), SAMPLES, False, dim=1)
        torch.testing.assert_close(use.total(rows[0]), each[0][i].sum(0))
        torch.testing.assert_close(use.squares(rows), sum(gradients[i].square().sum(0) for gradients in each))


@pytest.mark.parametrize("training", [True, False])
def test_batch_norm_is_given_by_its_normalised_inputs(training):
    module = nn.BatchNorm1d(3).double().train(training)
    x = draw(SAMPLES, 3) * 3 + 1
    with Recorder(list(module.parameters())) as record:
        module(x)
    assert record.coupled is training
    use = record.uses[id(module.weight)][0]
    use.arrange(SAMPLES, batch_first=True)
    vector = draw(SAMPLES, 1, 3, seed=2)
    variance, mean = torch.var_mean(x, 0, correction=0) if training else (torch.ones(3), torch.zeros(3))
    normal = (x - mean) / (variance + module.eps).sqrt()
    torch.testing.assert_close(use.total(vector), (normal * vector[:, 0]).sum(0))
    torch.testing.assert_close(use.squares(vector[None]), (normal * vector[:, 0]).square().sum(0))


@pytest.mark.parametrize(
    ("batch_first", "expected"), [(True, [[0, 1], [2, 3], [4, 5]]), (False, [[0, 3], [1, 4], [2, 5]])]
)
def test_rows_are_split_by_sample_or_by_position(batch_first, expected):
    assert by_sample(torch.arange(6), 3, batch_first).tolist() == expected


def test_kinds_of_uses():
    model = nn.Sequential(nn.Embedding(6, 3), nn.Linear(3, 2), nn.LayerNorm(2))
    with Recorder(list(model.parameters())) as record:
        model(TOKENS)
    kinds = [type(record.uses[id(p)][0]) for p in model.parameters()]
    assert kinds == [Lookup, Outer, Shift, Scale, Shift]
    convolution = nn.Conv2d(1, 1, 1)
    with Recorder(list(convolution.parameters())) as record:
        convolution(torch.ones(1, 1, 1, 1))
    assert [type(record.uses[id(p)][0]) for p in convolution.parameters()] == [Patches, Shift]


@pytest.mark.parametrize(
    "module", [nn.Conv1d(3, 3, 1), nn.GroupNorm(3, 3), nn.LayerNorm((3, 5)), nn.Bilinear(5, 5, 2)], ids=repr
)
def test_unknown_layers_and_other_parameters_are_not_noted(module):
    x, other = torch.ones(2, 3, 5), nn.Linear(5, 5)
    with Recorder(list(module.parameters())) as record:
        inputs = other(x)
        module(inputs, inputs) if isinstance(module, nn.Bilinear) else module(inputs)
    assert record.uses == {id(p): [] for p in module.parameters()}


def test_every_use_is_noted_and_none_without_a_gradient():
    module = nn.Linear(3, 3)
    with Recorder(list(module.parameters())) as record:
        module(module(torch.ones(2, 3)))
        with torch.no_grad():
            module(torch.ones(2, 3))
    assert [len(uses) for uses in record.uses.values()] == [2, 2]


@pytest.mark.parametrize("size", [(3, 3), (1, 2), (1, 1)], ids=str)
@pytest.mark.parametrize("dilation", [(1, 1), (2, 1)], ids=str)
@pytest.mark.parametrize("padding", [(0, 0), (1, 2)], ids=str)
@pytest.mark.parametrize("stride", [(1, 1), (2, 1), (3, 2)], ids=str)
def test_patches_are_those_of_pytorch(stride, padding, dilation, size):
    images = torch.randn(3, 4, 9, 8, generator=torch.Generator().manual_seed(0))
    geometry = {"stride": stride, "padding": padding, "dilation": dilation}
    assert torch.equal(layer_records.unfold(images, size, **geometry), F.unfold(images, size, **geometry))
