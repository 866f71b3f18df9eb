"""Images to be downloaded, by a network that answers what the tests say."""

import hashlib
import http.client
import io
import tarfile
import urllib.error
import urllib.request

import pytest
import torchvision

from tasks.image_data import LAYOUTS, read_images
from tests.support.images import assert_same, refusal, vouch_for, write_pickles

pytestmark = pytest.mark.usefixtures("cache")


@pytest.fixture
def network(monkeypatch):
    """Answers requests by what is appended to it: an error, or the bytes."""
    answers = []

    def urlopen(request, *_, **__):
        answer = answers[-1]
        if isinstance(answer, Exception):
            raise answer
        response = io.BytesIO(answer)
        response.url, response.length = getattr(request, "full_url", request), len(answer)
        return response

    monkeypatch.setattr(urllib.request, "urlopen", urlopen)
    return answers


@pytest.mark.parametrize("name", ["cifar10", "cifar100"])
@pytest.mark.parametrize(
    "answer",
    [
        urllib.error.URLError("no route\nto host"),
        TimeoutError("timed out"),
        ConnectionResetError("reset"),
        http.client.IncompleteRead(b"some"),
        b"<html>proxy</html>",
        b"",
    ],
    ids=lambda answer: type(answer).__name__ + str(len(str(answer))),
)
def test_without_network_the_sentence_names_every_way_out(network, cache, name, answer):
    network.append(answer)
    said = refusal(name, None)
    for part in ("--data-dir", LAYOUTS[name].folder, "train/<class>/*.jpg", "--dataset digits", LAYOUTS[name].title):
        assert part in said
    assert not list(cache.glob("*.npz"))


def test_a_file_that_is_not_whole_is_not_taken_for_one(network, cache, tmp_path):
    write_pickles(cache / "torchvision", "cifar10")  # as an unpacking that was cut off might leave it
    network.append(urllib.error.URLError("no route to host"))
    assert "cannot be downloaded" in refusal("cifar10", None)
    network.append(b"\x1f\x8b half an archive")
    assert "cannot be downloaded" in refusal("cifar10", None)
    network.append(urllib.error.URLError("no route to host"))
    assert "cannot be downloaded" in refusal("cifar10", None)


def test_what_was_downloaded_and_checked_is_read(network, cache, tmp_path, monkeypatch):
    source = write_pickles(tmp_path / "source", "cifar10")
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w:gz") as archive:
        archive.add(source / "cifar-10-batches-py", "cifar-10-batches-py")
    cls = torchvision.datasets.CIFAR10

    monkeypatch.setattr(cls, "tgz_md5", hashlib.md5(file.getvalue()).hexdigest())
    vouch_for(monkeypatch, source, "cifar10")
    network.append(file.getvalue())
    expected = read_images("cifar10", source)
    assert_same(read_images("cifar10", None), expected.train, expected.test)
    network.append(urllib.error.URLError("no route to host"))  # not asked again
    assert_same(read_images("cifar10", None), expected.train, expected.test)
