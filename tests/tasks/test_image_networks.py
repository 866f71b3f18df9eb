"""The networks of the image tasks, against torchvision's and against what Keras does."""

import math

import numpy as np
import pytest
import torch
import torchvision
from torch import nn

from optimizers import DiagHessian
from tasks import images
from tasks.cifar_cnn import CifarCNN
from tasks.image_data import Images
from tasks.resnet18 import ResNet18


def task(cls, classes=10, **arguments):
    made = cls(
        metric="val_loss", mode="min", batch_size=8, dataset="cifar10", normalise=True, augment=True, **arguments
    )
    made.set_classes(classes)
    made.device = torch.device("cpu")
    return made


def count(model):
    return sum(p.numel() for p in model.parameters())


def some_images(rows=4):
    return torch.rand(rows, 3, 32, 32, generator=torch.Generator().manual_seed(0))


# ResNet-18.


def by_hand(classes):
    model = torchvision.models.resnet18(num_classes=classes)
    model.conv1 = nn.Conv2d(3, 64, kernel_size=(3, 3), stride=(1, 1), padding=(1, 1), bias=False)
    model.maxpool = nn.Identity()
    return model


@pytest.mark.parametrize(("classes", "parameters"), [(10, 11_173_962), (100, 11_173_962 + 90 * 513)])
def test_resnet18_is_torchvisions_with_another_stem(classes, parameters):
    model, twin = task(ResNet18, classes, width=64).build(0), by_hand(classes)
    assert count(model) == parameters == count(twin)
    twin.load_state_dict(model.state_dict())
    for training in (True, False):
        model.train(training), twin.train(training)
        with torch.no_grad():
            assert torch.equal(model(some_images(2)), twin(some_images(2)))


@pytest.mark.parametrize("width", [1, 8, 16])
def test_a_narrow_resnet18_is_narrow_in_every_layer(width):
    narrow, full = task(ResNet18, width=width).build(0), by_hand(10)
    for (name, small), (other, large) in zip(narrow.named_parameters(), full.named_parameters(), strict=True):
        expected = [size if size in (3, 1, 10) or i > 1 else size * width // 64 for i, size in enumerate(large.shape)]
        assert (name, list(small.shape)) == (other, expected)
    assert narrow(some_images()).shape == (4, 10)


def test_resnet18_is_initialised_as_torchvisions():
    model = task(ResNet18, width=32).build(0)
    for name, module in model.named_modules():
        if isinstance(module, nn.Conv2d):  # normal, of variance 2 over the outputs that an input reaches
            fan_out = module.out_channels * math.prod(module.kernel_size)
            spread = module.weight.std().item() * math.sqrt(fan_out / 2)
            assert spread == pytest.approx(1, abs=5 / math.sqrt(2 * module.weight.numel())), name
        if isinstance(module, nn.BatchNorm2d):
            assert (
                (module.weight == 1).all() and (module.bias == 0).all() and (module.momentum, module.eps) == (0.1, 1e-5)
            )


# The CIFAR CNN.

BLOCK = [*[nn.Conv2d, nn.BatchNorm2d, nn.LeakyReLU] * 2, nn.MaxPool2d, nn.Dropout]
LAYERS = [*BLOCK * 3, nn.Flatten, *[nn.Linear, nn.BatchNorm1d, nn.LeakyReLU, nn.Dropout] * 2, nn.Linear]


@pytest.fixture(scope="module")
def cnn():
    return task(CifarCNN, width=32, dense=512).build(0)


def test_cifar_cnn_has_its_layers_in_order_and_so_many_parameters(cnn):
    assert [type(layer) for layer in cnn] == LAYERS
    assert count(cnn) == 1_606_826
    convolutions = [layer for layer in cnn if isinstance(layer, nn.Conv2d)]
    assert [(c.in_channels, c.out_channels) for c in convolutions] == [
        (3, 32), (32, 32), (32, 64), (64, 64), (64, 128), (128, 128)
    ]  # fmt: skip
    assert {(c.kernel_size, c.stride, c.padding) for c in convolutions} == {((3, 3), (1, 1), (1, 1))}
    assert [(x.in_features, x.out_features) for x in cnn if isinstance(x, nn.Linear)] == [
        (128 * 16, 512), (512, 512), (512, 10)
    ]  # fmt: skip
    assert [layer.p for layer in cnn if isinstance(layer, nn.Dropout)] == [0.4] * 3 + [0.5] * 2
    assert {layer.negative_slope for layer in cnn if isinstance(layer, nn.LeakyReLU)} == {0.01}


def test_cifar_cnn_is_initialised_and_normalised_as_keras_does(cnn):
    for layer in cnn:
        if isinstance(layer, nn.Conv2d | nn.Linear):
            fans = [size * math.prod(layer.weight.shape[2:]) for size in layer.weight.shape[:2]]
            bound = math.sqrt(6 / sum(fans))
            assert 0.95 * bound < layer.weight.abs().max() <= bound
            # of a uniform draw: variance b^2 / 3, whose estimate has the relative error sqrt(0.8 / n)
            variance = layer.weight.double().var().item()
            assert variance == pytest.approx(bound**2 / 3, rel=5 * math.sqrt(0.8 / layer.weight.numel()))
            assert (layer.bias == 0).all()
        if isinstance(layer, nn.BatchNorm1d | nn.BatchNorm2d):
            assert (layer.momentum, layer.eps) == (0.01, 1e-3)
            assert (layer.weight == 1).all() and (layer.bias == 0).all()


def test_cifar_cnn_of_cifar100_has_100_outputs():
    model = task(CifarCNN, 100, width=32, dense=512).build(0)
    assert model(some_images()).shape == (4, 100) and count(model) == 1_606_826 + 90 * 513


# Both.

TINY = {"resnet18": (ResNet18, {"width": 2}), "cifar_cnn": (CifarCNN, {"width": 2, "dense": 6})}


@pytest.mark.parametrize(
    ("cls", "arguments", "named"),
    [(ResNet18, {"width": 0}, "width"), (CifarCNN, {"width": 0, "dense": 5}, "width"),
     (CifarCNN, {"width": 5, "dense": -1}, "dense"), (ResNet18, {"width": 1.5}, "width")],
)  # fmt: skip
def test_a_network_without_width_is_refused(cls, arguments, named):
    with pytest.raises(ValueError, match=f"{named} must be a whole number of at least 1"):
        task(cls, **arguments)


@pytest.mark.parametrize(("cls", "arguments"), TINY.values(), ids=TINY)
def test_same_seed_same_weights_and_other_seed_other_weights(cls, arguments):
    first, again, other = (task(cls, **arguments).build(seed).state_dict().values() for seed in (0, 0, 1))
    assert all(map(torch.equal, first, again)) and not all(map(torch.equal, first, other))


@pytest.mark.parametrize("estimator", ["ggn_mc", "gnb", "hutchinson"])
@pytest.mark.parametrize(("cls", "arguments"), TINY.values(), ids=TINY)
def test_curvature_is_estimated_in_training_and_in_evaluation_of_both(monkeypatch, cls, arguments, estimator):
    rng = np.random.default_rng(0)
    rows = rng.integers(0, 256, (30, 3, 32, 32), np.uint8), np.arange(30) % 3
    monkeypatch.setattr(images, "read_images", lambda *_: Images("random", "here", 3, rows, rows))
    made = task(cls, **arguments)
    made.setup(None, torch.device("cpu"))
    model = made.build(0)
    optimizer = DiagHessian(model.parameters(), lr=1e-6, estimator=estimator, update_period=2)
    for batch in made.batches(0, 0):
        loss = optimizer.step(lambda batch=batch: made.loss(model, batch))
        assert loss.isfinite()
    curvatures = [optimizer.state[p]["hessian"] for p in model.parameters()]
    assert all(h.isfinite().all() for h in curvatures) and sum(h.any().item() for h in curvatures) > 0.6 * len(
        curvatures
    )
    if estimator != "hutchinson":
        assert all((h >= 0).all() for h in curvatures)
    # BatchNorm saw each batch once
    assert {m.num_batches_tracked.item() for m in model.modules() if isinstance(m, nn.BatchNorm2d)} == {
        len(list(made.batches(0, 0)))
    }
