"""What image tasks share: splits, subsets, normalisation, augmentation, evaluation, all on tiny random images."""

import copy
import hashlib
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.stats import chisquare
from torch import nn

from optimizers import DiagHessian
from tasks import images
from tasks.image_data import Images
from tasks.images import ImageClassification
from tuner.training.records import Budget
from tuner.training.single import train

CLASSES = 3


class Tiny(ImageClassification):
    """One convolution with BatchNorm and dropout."""

    least_batch = 2

    def network(self):
        return nn.Sequential(
            nn.Conv2d(3, 4, 3, stride=4), nn.BatchNorm2d(4), nn.ReLU(), nn.Dropout(0.2), nn.Flatten(),
            nn.Linear(256, self.classes),
        )  # fmt: skip


def random_images(each, seed):
    """Classes by turns, brighter from one to the next; each image's first pixel is its number."""
    rng = np.random.default_rng(seed)
    labels = np.tile(np.arange(CLASSES), each)
    pixels = (
        rng.integers(0, 156, (len(labels), 3, 32, 32)) + 30 * labels[:, None, None, None] + [[[[0]], [[10]], [[20]]]]
    )
    pixels[:, 0, 0, 0] = np.arange(len(labels))
    return pixels.astype(np.uint8), labels


@pytest.fixture
def source(monkeypatch):
    read = Images("random", "here", CLASSES, random_images(20, 0), random_images(7, 1))
    monkeypatch.setattr(images, "read_images", lambda dataset, data_dir: read)
    return read


def make(batch_size=16, dataset="cifar10", normalise=True, augment=False, **kwargs):
    task = Tiny(
        metric="val_loss",
        mode="min",
        batch_size=batch_size,
        dataset=dataset,
        normalise=normalise,
        augment=augment,
        **kwargs,
    )
    task.setup(None, torch.device("cpu"))
    return task


# Splits.


def test_the_last_tenth_of_each_class_validates(source):
    task, (x, y) = make(), source.train
    held = np.sort(np.concatenate([np.flatnonzero(y == label)[18:] for label in range(CLASSES)]))
    expected = {"train": np.setdiff1d(np.arange(60), held), "val": held}
    for split, rows in expected.items():
        np.testing.assert_array_equal(task.splits[split][0], x[rows])
        np.testing.assert_array_equal(task.splits[split][1], y[rows])
    for kept, given in zip(task.splits["test"], source.test, strict=True):
        np.testing.assert_array_equal(kept, given)
    assert all(x.dtype == torch.uint8 and y.dtype == torch.int64 for x, y in task.splits.values())
    assert task.data_summary["name"] == "random" and task.data_summary["source"] == "here"
    assert task.data_summary["rows"] == {"train": 54, "val": 6, "test": 21}


def test_a_subset_is_fixed_balanced_and_said_in_the_name(source):
    task, whole = make(rows={"train": 31, "val": None, "test": 6}), make()
    for split, rows in {"train": 31, "test": 6}.items():
        np.testing.assert_array_equal(task.splits[split][0], whole.splits[split][0][:rows])  # classes are by turns
        assert np.ptp(np.bincount(task.splits[split][1])) <= 1
    assert len(task.splits["val"][0]) == 6
    assert task.data_summary["name"] == "random, 31 of 54 train, 6 of 21 test images"
    assert task.data_summary["sha256"] == make(rows={"train": 31, "test": 6}).data_summary["sha256"]
    assert make(rows={"train": 54, "test": 1000}).data_summary["name"] == "random"


@pytest.mark.parametrize(
    ("rows", "named"),
    [({"tran": 3}, "'tran'"), ({"train": 0}, "rows.train"), ({"val": -1}, "rows.val"), ({"test": 2.5}, "2.5"),
     ({"train": True}, "True"), ({"train": "3"}, "'3'")],
)  # fmt: skip
def test_wrong_rows_are_refused(rows, named):
    with pytest.raises(ValueError, match="rows") as caught:
        make(rows=rows)
    assert named in str(caught.value)


@pytest.mark.parametrize("batch_size", [1, 53])
def test_a_batch_of_one_image_is_refused_where_the_network_cannot_take_it(source, monkeypatch, batch_size):
    with pytest.raises(ValueError, match=f"batch_size {batch_size} leaves a batch of 1 of the 54"):
        make(batch_size)
    monkeypatch.setattr(Tiny, "least_batch", 1)
    assert min(len(x) for x, _ in make(batch_size).batches(0, 0)) == 1


@pytest.mark.parametrize("batch_size", [2, 13, 52, 54, 1000])
def test_any_other_batch_size_will_do(source, batch_size):
    sizes = [len(x) for x, _ in make(batch_size).batches(0, 0)]
    assert sum(sizes) == 54 and min(sizes) > 1


# What the network is given.


def test_training_images_are_normalised_per_channel(source):
    task = make(rows={"train": 40})
    pixels = task.splits["train"][0].numpy().astype(np.float64)
    mean, deviation = (f(pixels, axis=(0, 2, 3), keepdims=True) for f in (np.mean, np.std))
    for split in ("train", "test"):
        inputs = task.splits[split][0]
        given = task.prepare(inputs)
        assert given.dtype == torch.float32
        np.testing.assert_allclose(given, (inputs.numpy() - mean) / deviation, rtol=1e-4, atol=1e-5)
    given = task.prepare(task.splits["train"][0]).double()
    np.testing.assert_allclose(given.mean(dim=(0, 2, 3)), 0, atol=1e-6)
    np.testing.assert_allclose(given.std(dim=(0, 2, 3), correction=0), 1, atol=1e-6)


def test_a_channel_without_variation_becomes_0(monkeypatch):
    pixels, labels = random_images(20, 0)
    pixels[:, 1] = 77
    monkeypatch.setattr(images, "read_images", lambda *_: Images("grey", "here", CLASSES, *[(pixels, labels)] * 2))
    task = make()
    given = task.prepare(task.splits["train"][0])
    assert given.isfinite().all() and given[:, 1].abs().max() < 1e-5
    np.testing.assert_allclose(given[:, 0].std(correction=0), 1, rtol=1e-5)


def test_without_normalisation_they_are_in_0_to_1(source):
    task = make(normalise=False)
    inputs = task.splits["train"][0]
    before = inputs.clone()
    np.testing.assert_allclose(task.prepare(inputs), inputs.numpy() / 255, rtol=1e-6)
    assert torch.equal(inputs, before)
    assert task.prepare(torch.tensor([0, 255], dtype=torch.uint8)).tolist() == [0.0, 1.0]


def test_evaluation_is_of_whole_images_in_eval_mode_over_the_whole_split(source, monkeypatch):
    task = make(augment=True)
    model = task.build(0).train()
    inputs, targets = task.splits["test"]
    twin = copy.deepcopy(model).eval()
    with torch.no_grad():
        odds = torch.log_softmax(twin(task.prepare(inputs)), dim=1)
    monkeypatch.setattr(task, "evaluation_rows", 4)
    found = task.evaluate(model, "test")
    assert set(found) == {"loss", "acc", "f1"} and model.training
    assert found["loss"] == pytest.approx(-odds[range(21), targets].mean().item(), rel=1e-5)
    assert found["acc"] == pytest.approx((odds.argmax(dim=1) == targets).double().mean().item())
    assert model[1].num_batches_tracked == 0


# Augmentation.


def candidates(image, mirrors):
    """All crops of 32x32 of a zero-padded image (3, 32, 32), by slicing: (top, left, mirrored) -> pixels."""
    framed = np.zeros((3, 40, 40), np.uint8)
    framed[:, 4:36, 4:36] = image
    crops = {(top, left): framed[:, top : top + 32, left : left + 32] for top in range(9) for left in range(9)}
    return {
        (*place, mirror): (crop[:, :, ::-1] if mirror else crop).tobytes()
        for place, crop in crops.items()
        for mirror in range(mirrors)
    }


def raw(inputs):
    """Prepared images in [0, 1] as their bytes again."""
    return (inputs * 255).round().to(torch.uint8).numpy()


def places(dataset, mirrors, epochs):
    """(top, left, mirrored) of every image of some epochs, each found among all that there could be."""
    task = make(dataset=dataset, normalise=False, augment=True)
    pixels, labels = task.splits["train"]
    by_content = [{content: place for place, content in candidates(x, mirrors).items()} for x in pixels.numpy()]
    found = []
    for epoch in range(epochs):
        seen = []
        for inputs, targets in task.batches(5, epoch):
            assert inputs.is_contiguous() and inputs.dtype == torch.float32
            for image, target in zip(raw(inputs), targets, strict=True):
                (row,) = (i for i, content in enumerate(by_content) if image.tobytes() in content)
                assert labels[row] == target
                seen.append(row)
                found.append(by_content[row][image.tobytes()])
        assert sorted(seen) == list(range(54))
    return np.array(found)


def test_each_image_of_a_batch_is_one_of_its_162_crops_and_all_are_as_likely(source):
    found = places("cifar10", 2, epochs=40)
    counts = np.zeros((9, 9, 2))
    np.add.at(counts, tuple(found.T), 1)
    assert counts.sum() == 2160 and counts.min() > 0
    for axes in ((1, 2), (0, 2), (0, 1), ()):
        assert chisquare(counts.sum(axis=axes).ravel()).pvalue > 0.01
    for one, other in ((0, 1), (0, 2), (1, 2)):  # independent draws
        assert abs(np.corrcoef(found[:, one], found[:, other])[0, 1]) < 0.06


def test_digits_are_cropped_and_never_mirrored(source):
    counts = np.zeros((9, 9))
    np.add.at(counts, tuple(places("digits", 1, epochs=20)[:, :2].T), 1)
    assert counts.min() > 0


def digest(*tensors):
    return hashlib.sha256(b"".join(tensor.detach().numpy().tobytes() for tensor in tensors)).hexdigest()


@pytest.mark.parametrize("augment", [False, True])
def test_batches_depend_on_seed_and_epoch_alone(source, augment):
    task = make(augment=augment)

    def epoch(seed, number):
        return digest(*(tensor for batch in task.batches(seed, number) for tensor in batch))

    torch.manual_seed(1)
    first = epoch(3, 2)
    torch.manual_seed(2)
    before, kept = torch.get_rng_state(), [part.clone() for part in task.splits["train"]]
    assert epoch(3, 2) == first == digest(*(t for b in make(augment=augment).batches(3, 2) for t in b))
    assert torch.equal(torch.get_rng_state(), before)
    assert all(torch.equal(a, b) for a, b in zip(task.splits["train"], kept, strict=True))
    assert len({epoch(seed, number) for seed in range(3) for number in range(3)}) == 9


def test_augmentation_leaves_the_order_of_the_rows_as_it_is(source):
    plain, augmented = ([y.tolist() for _, y in make(augment=augment).batches(1, 1)] for augment in (False, True))
    assert plain == augmented


# In training.


def adam(params, hp):
    return torch.optim.Adam(params, lr=1e-2)


def diag_hessian(params, hp):
    return DiagHessian(params, lr=1e-4, diff=0.3, square=5.0, estimator="ggn_mc", update_period=2)


def noted_run(optimizer, seed):
    """Hashes of what ``build`` and ``batches`` gave, and the curve."""
    task, noted, curve = make(augment=True), [], []
    build, batches = task.build, task.batches

    def noting_build(seed):
        model = build(seed)
        noted.append(digest(*model.state_dict().values()))
        return model

    def noting_batches(seed, epoch):
        for batch in batches(seed, epoch):
            noted.append(digest(*batch))
            yield batch

    task.build, task.batches = noting_build, noting_batches
    result = train(task, optimizer, {}, seed, Budget(epochs=2, evaluations=3, test=True), curve.append)
    assert result.status == "complete"
    return noted, [look.metrics for look in curve]


@pytest.fixture
def one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def test_every_optimizer_gets_the_same_weights_and_batches_and_a_seed_the_same_curve_to_the_bit(source, one_thread):
    runs = {make: [noted_run(make, seed) for seed in (3, 3, 4)] for make in (adam, diag_hessian)}
    noted = runs[adam][0][0]
    assert len(noted) == 1 + 2 * 4 == len(set(noted))
    for (first, curve), (again, curve_again), (other, other_curve) in runs.values():
        assert first == again == noted and not set(first) & set(other)
        assert curve == curve_again
        assert all(a != b for a, b in zip(curve, other_curve, strict=True))
    assert runs[adam][0][1][0] == runs[diag_hessian][0][1][0]  # before the first step
    assert runs[adam][0][1][1] != runs[diag_hessian][0][1][1]


def test_digits_are_learnt_by_a_tiny_network_from_no_file(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    task = make(32, "digits", augment=False, rows={"train": 640, "test": 100})
    result = train(task, adam, {}, 0, Budget(epochs=3, evaluations=1, test=True))
    assert result.metrics["test_acc"] > 0.6  # chance is 0.1
    assert not list(Path(tmp_path).rglob("*.npz"))
