import os
from itertools import product
from pathlib import Path

import pytest
import torch
import torchvision
from safetensors.torch import save_file
from torchvision.models._api import Weights, WeightsEnum

from heated.common.errors import InputError
from heated.common.io import sha256
from heated.models import pretrained
from heated.models.backbones import BACKBONES
from heated.models.pretrained import IMAGENET, begin_with, identity, tensors

ROOT = Path(__file__).parents[2]
SHARED = ROOT.parent / "shared" / "weights" / "mobilenet_v2-imagenet.safetensors"
BATCH_NORM = {"batch_norm": {"momentum": 0.05, "eps": 1e-3, "frozen": False}, "frozen_blocks": 0}
FROZEN = {"batch_norm": {"momentum": 0.05, "eps": 1e-3, "frozen": True}, "frozen_blocks": 0}
LARGE = ["googlenet", "resnet50", "mobilenet_v2"]


def network(name, seed=0, **options):
    torch.manual_seed(seed)
    small = {"lenet": {}, "conv4": {"width": 4}}
    options = options or small.get(name, BATCH_NORM)
    return BACKBONES[name]((1 if name in small else 3, 28, 28), 8, **options)


def torchvisions(name):
    """torchvision's own network as it is published, classifiers included, with random weights and
    statistics."""
    more = {"aux_logits": True, "init_weights": False} if name == "googlenet" else {}
    torch.manual_seed(1)
    whole = getattr(torchvision.models, name)(weights=None, **more)
    for value in whole.state_dict().values():
        if value.is_floating_point():
            value.copy_(0.5 + 0.1 * torch.rand_like(value))
    return whole


def written(folder, name, suffix):
    path, state = folder / f"weights{suffix}", torchvisions(name).state_dict()
    if suffix == ".pth":
        torch.save(state, path)
    else:
        save_file(state, path)
    return path


BOTTLENECKS = {
    "googlenet": "fc.",
    "resnet50": "fc.",
    "mobilenet_v2": "classifier.",
    "lenet": "9.",
    "conv4": "17.",
}


def left(name, state):
    """Those of the weights that a file does not give."""
    return {key: value for key, value in state.items() if key.startswith(BOTTLENECKS[name])}


@pytest.mark.slow
def test_torchvisions_state_dict_loads_by_path(new_folder, subtests):
    for suffix, name in product([".safetensors", ".pth"], LARGE):
        with subtests.test(suffix=suffix, name=name):
            folder = new_folder()
            path, ours = written(folder, name, suffix), network(name)
            bottleneck = {
                key: value.clone() for key, value in left(name, ours.state_dict()).items()
            }
            begin_with(ours, tensors(str(path), name))
            theirs = torchvisions(name).state_dict()
            for key, value in ours.state_dict().items():
                if key in bottleneck:
                    assert torch.equal(value, bottleneck[key]), key
                elif not key.endswith("num_batches_tracked"):
                    assert torch.equal(value, theirs[key]), key


@pytest.mark.parametrize("name", LARGE)
def test_the_loaded_network_computes_what_torchvisions_does(tmp_path, name):
    whole = torchvisions(name)
    eps = {layer.eps for layer in whole.modules() if isinstance(layer, torch.nn.BatchNorm2d)}
    options = {
        "batch_norm": {"momentum": 0.1, "eps": eps.pop(), "frozen": False},
        "frozen_blocks": 0,
    }
    ours = network(name, **options)
    begin_with(ours, whole.state_dict())
    last, rest = ("classifier", "fc") if name == "mobilenet_v2" else ("fc", "classifier")
    assert not hasattr(ours, rest)
    setattr(whole, last, torch.nn.Identity())
    setattr(ours, last, torch.nn.Identity())
    images = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        expected, found = whole.eval()(images), ours.eval()(images)
    assert torch.equal(found, expected)


@pytest.mark.parametrize("name", LARGE)
def test_a_frozen_batch_norm_takes_the_files_statistics_and_keeps_them(name):
    ours, theirs = network(name, **FROZEN), torchvisions(name).state_dict()
    begin_with(ours, theirs)
    ours.train()(torch.randn(2, 3, 64, 64))
    found = {key: value for key, value in ours.state_dict().items() if "running" in key}
    assert len(found) > 100
    assert all(torch.equal(value, theirs[key]) for key, value in found.items())


@pytest.mark.parametrize("name", ["lenet", "conv4"])
def test_the_small_networks_take_a_file_of_their_own(tmp_path, name):
    other, ours = network(name, seed=5), network(name)
    save_file(other.state_dict(), tmp_path / "w.safetensors")
    bottleneck = {key: value.clone() for key, value in left(name, ours.state_dict()).items()}
    assert len(bottleneck) == 2
    begin_with(ours, tensors(str(tmp_path / "w.safetensors"), name))
    for key, value in ours.state_dict().items():
        assert torch.equal(value, bottleneck.get(key, other.state_dict()[key])), key


def test_a_file_of_long_ago_lacks_the_number_of_batches():
    old = {k: v for k, v in torchvisions("resnet50").state_dict().items() if "tracked" not in k}
    ours = network("resnet50")
    begin_with(ours, old)
    assert torch.equal(ours.conv1.weight, old["conv1.weight"])


@pytest.mark.skipif(not SHARED.exists(), reason=f"needs {SHARED.name} beside the project")
def test_real_weights_load_by_path():
    ours = network("mobilenet_v2")
    begin_with(ours, tensors(str(SHARED), "mobilenet_v2"))
    features = ours.features[0][0].weight
    assert torch.equal(features, tensors(str(SHARED), "mobilenet_v2")["features.0.0.weight"])
    assert identity(str(SHARED), "mobilenet_v2") == sha256(SHARED)


# --- what does not fit -----------------------------------------------------------------------


def refused(name, came):
    ours = network(name)
    before = {key: value.clone() for key, value in ours.state_dict().items()}
    with pytest.raises(InputError) as caught:
        begin_with(ours, came)
    assert all(torch.equal(value, before[key]) for key, value in ours.state_dict().items())
    return str(caught.value).splitlines()


def test_missing_unknown_and_wrongly_shaped_keys_are_listed():
    state = dict(network("conv4").state_dict())
    del state["0.weight"]
    state |= {"4.weight": torch.zeros(2, 2), "heads.0": torch.zeros(3)}
    assert refused("conv4", state) == [
        "training.weights: 3 keys do not fit the network:",
        "  0.weight: came nothing; allowed: (4, 1, 3, 3)",
        "  4.weight: came (2, 2); allowed: (4, 4, 3, 3)",
        "  heads.0: came (3,); allowed: nothing",
    ]


def test_of_many_keys_ten_are_listed_and_the_rest_counted():
    told = refused("mobilenet_v2", torchvisions("resnet50").state_dict())
    assert len(told) == 12
    count = int(told[0].split()[1])
    assert count > 300
    assert told[-1] == f"  and {count - 10} more"


class Code:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


def test_a_pickle_with_code_is_refused_and_does_not_run(tmp_path):
    torch.save({"weight": Code(tmp_path / "ran")}, tmp_path / "w.pth")
    with pytest.raises(InputError, match=r"w.pth cannot be read as weights \(UnpicklingError"):
        tensors(str(tmp_path / "w.pth"), "conv4")
    assert not (tmp_path / "ran").exists()


def test_a_damaged_file_is_refused(new_folder, subtests):
    for content, suffix in product(
        [b"", b"junk that is no archive", b"\x80\x04\x95"], [".safetensors", ".pth"]
    ):
        with subtests.test(content=content, suffix=suffix):
            folder = new_folder()
            path = folder / f"w{suffix}"
            path.write_bytes(content)
            with pytest.raises(InputError, match="cannot be read as weights"):
                tensors(str(path), "conv4")


@pytest.mark.parametrize("held", [[torch.zeros(2)], {"state_dict": {"a": torch.zeros(2)}}])
def test_what_is_not_tensors_by_name_is_refused(tmp_path, held):
    torch.save(held, tmp_path / "w.pth")
    with pytest.raises(InputError, match="allowed: tensors by name alone"):
        tensors(str(tmp_path / "w.pth"), "conv4")


@pytest.mark.parametrize("ask", [identity, tensors])
def test_a_missing_file_and_another_kind_of_file_are_refused(tmp_path, ask):
    with pytest.raises(InputError, match=r"absent.pth is missing; put the file there"):
        ask(str(tmp_path / "absent.pth"), "conv4")
    with pytest.raises(InputError, match=r"came 'weights.bin'; allowed: a file of"):
        ask("weights.bin", "conv4")


def test_a_relative_path_is_from_the_projects_root(tmp_path, monkeypatch):
    save_file({"a": torch.ones(2)}, tmp_path / "w.safetensors")
    monkeypatch.setenv("DVC_ROOT", str(tmp_path))
    assert identity("w.safetensors", "conv4") == sha256(tmp_path / "w.safetensors")
    assert torch.equal(tensors("w.safetensors", "conv4")["a"], torch.ones(2))


# --- ImageNet --------------------------------------------------------------------------------


def test_none_is_no_weights():
    assert tensors("none", "conv4") is None
    assert identity("none", "conv4") == "none"


def test_imagenets_weights_are_told_apart_by_their_files_name():
    names = {name: identity("imagenet", name) for name in IMAGENET}
    assert names == {
        "googlenet": "googlenet-1378be20.pth",
        "resnet50": "resnet50-0676ba61.pth",
        "mobilenet_v2": "mobilenet_v2-b0353104.pth",
    }


def test_the_small_networks_have_no_imagenet_weights(subtests):
    for ask, name in product([identity, tensors], ["conv4", "lenet"]):
        with (
            subtests.test(ask=ask, name=name),
            pytest.raises(InputError, match=f"came 'imagenet' for the backbone '{name}'; allowed"),
        ):
            ask("imagenet", name)


def test_a_failed_download_says_where_to_put_the_file(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setenv("https_proxy", "http://127.0.0.1:9")  # nobody listens there
    monkeypatch.setenv("no_proxy", "")
    with pytest.raises(InputError) as caught:
        tensors("imagenet", "mobilenet_v2")
    told = str(caught.value)
    assert "mobilenet_v2-b0353104.pth could not be had" in told
    assert f"put the file into {tmp_path / 'hub' / 'checkpoints'}" in told
    assert "training.weights" in told


def test_another_file_in_torchs_cache_is_refused(tmp_path, monkeypatch):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    cached = tmp_path / "hub" / "checkpoints" / "googlenet-1378be20.pth"
    cached.parent.mkdir(parents=True)
    torch.save({}, cached)
    with pytest.raises(InputError, match=r"googlenet-1378be20.pth is not the file.*remove it"):
        tensors("imagenet", "googlenet")


@pytest.mark.parametrize("right", [True, False])
def test_a_download_is_taken_by_its_hash_only(tmp_path, monkeypatch, right):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "home"))
    torch.save({"a": torch.arange(3)}, tmp_path / "w.pth")
    digest = sha256(tmp_path / "w.pth")[:8] if right else "0123abcd"
    path = (tmp_path / "w.pth").rename(tmp_path / f"w-{digest}.pth")

    class Here(WeightsEnum):
        V1 = Weights(url=path.as_uri(), transforms=None, meta={})

    if right:
        found = pretrained.downloaded(Here.V1)
        assert torch.equal(found["a"], torch.arange(3))
        path.unlink()  # the second time it is in torch's cache
        assert torch.equal(pretrained.downloaded(Here.V1)["a"], torch.arange(3))
    else:
        with pytest.raises(InputError, match="could not be had .*hash"):
            pretrained.downloaded(Here.V1)
