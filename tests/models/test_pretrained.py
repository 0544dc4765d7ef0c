import os
from itertools import product

import pytest
import torch
import torchvision
from conftest import ROOT
from networks import LARGE, built
from safetensors.torch import save_file
from torch import nn
from torchvision.models._api import Weights, WeightsEnum

from heated.common.errors import InputError
from heated.common.io import sha256
from heated.models import pretrained
from heated.models.backbones import bottleneck
from heated.models.pretrained import IMAGENET, begin_with, identity, tensors

SHARED = ROOT.parent / "shared" / "weights" / "mobilenet_v2-imagenet.safetensors"


def torchvisions(name):
    """torchvision's own network as it is published, classifiers included, with random weights and
    statistics."""
    with torch.device("meta"):
        more = {"aux_logits": True, "init_weights": False} if name == "googlenet" else {}
        whole = torchvision.models.get_model(name, weights=None, **more)
    whole = whole.to_empty(device="cpu")
    torch.manual_seed(1)
    for value in whole.state_dict().values():
        value.copy_(0.5 + 0.1 * torch.rand(value.shape))
    return whole


def trunk(network):
    """The weights that a file gives: all but those of the last layer and the counts of batches."""
    last = f"{bottleneck(network)}."
    return {
        key: value.clone()
        for key, value in network.state_dict().items()
        if not key.startswith(last) and not key.endswith("num_batches_tracked")
    }


def test_a_file_fills_all_but_the_bottleneck_and_the_network_computes_what_torchvisions_does(
    tmp_path, subtests
):
    files = product(["mobilenet_v2"], [".safetensors", ".pth"])
    for name, suffix in (("googlenet", ""), ("resnet50", ""), *files):
        with subtests.test(name=name, suffix=suffix):
            whole = torchvisions(name)
            state, path = whole.state_dict(), tmp_path / f"weights{suffix}"
            if suffix:
                (torch.save if suffix == ".pth" else save_file)(state, path)
            eps = {each.eps for each in whole.modules() if isinstance(each, nn.BatchNorm2d)}
            ours = built(name, momentum=0.1, eps=eps.pop())
            untouched = {k: v.clone() for k, v in ours.state_dict().items() if k not in trunk(ours)}
            begin_with(ours, tensors(str(path), name) if suffix else state)
            assert all(torch.equal(value, state[key]) for key, value in trunk(ours).items())
            for key, value in untouched.items():
                assert torch.equal(ours.state_dict()[key], value), key
            last, rest = ("classifier", "fc") if name == "mobilenet_v2" else ("fc", "classifier")
            assert not hasattr(ours, rest)
            setattr(whole, last, nn.Identity())
            setattr(ours, last, nn.Identity())
            images = torch.randn(2, 3, 64, 64)
            with torch.no_grad():
                assert torch.equal(ours.eval()(images), whole.eval()(images))


def test_a_frozen_batch_norm_takes_the_files_statistics_and_keeps_them():
    for name in LARGE:
        ours, theirs = built(name, frozen=True), torchvisions(name).state_dict()
        old = {key: value for key, value in theirs.items() if "tracked" not in key}  # as long ago
        begin_with(ours, old)
        ours.train()(torch.randn(2, 3, 64, 64))
        found = {key: value for key, value in ours.state_dict().items() if "running" in key}
        assert len(found) > 100
        assert all(torch.equal(value, theirs[key]) for key, value in found.items())


def test_the_small_networks_take_a_file_of_their_own(tmp_path):
    for name in ("lenet", "conv4"):
        other, ours = built(name, seed=5), built(name)
        last = {k: v.clone() for k, v in ours.state_dict().items() if bottleneck(ours) in k}
        assert len(last) == 2
        save_file(other.state_dict(), tmp_path / "w.safetensors")
        begin_with(ours, tensors(str(tmp_path / "w.safetensors"), name))
        for key, value in ours.state_dict().items():
            assert torch.equal(value, last.get(key, other.state_dict()[key])), key


@pytest.mark.skipif(not SHARED.exists(), reason=f"needs {SHARED.name} beside the project")
def test_real_weights_load_by_path():
    ours = built("mobilenet_v2")
    begin_with(ours, tensors(str(SHARED), "mobilenet_v2"))
    features = ours.features[0][0].weight
    assert torch.equal(features, tensors(str(SHARED), "mobilenet_v2")["features.0.0.weight"])
    assert identity(str(SHARED), "mobilenet_v2") == sha256(SHARED)


# --- what does not fit -----------------------------------------------------------------------


def refused(name, came):
    ours = built(name)
    before = {key: value.clone() for key, value in ours.state_dict().items()}
    with pytest.raises(InputError) as caught:
        begin_with(ours, came)
    assert all(torch.equal(value, before[key]) for key, value in ours.state_dict().items())
    return str(caught.value).splitlines()


def test_missing_unknown_and_wrongly_shaped_keys_are_listed():
    state = dict(built("conv4").state_dict())
    del state["0.weight"]
    state |= {"4.weight": torch.zeros(2, 2), "heads.0": torch.zeros(3)}
    assert refused("conv4", state) == [
        "training.weights: 3 keys do not fit the network:",
        "  0.weight: came nothing; allowed: (32, 3, 3, 3)",
        "  4.weight: came (2, 2); allowed: (32, 32, 3, 3)",
        "  heads.0: came (3,); allowed: nothing",
    ]


def test_of_many_keys_ten_are_listed_and_the_rest_counted():
    with torch.device("meta"):
        other = torchvision.models.resnet50(weights=None)
    told = refused("mobilenet_v2", other.state_dict())
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


def test_a_damaged_file_is_refused(tmp_path):
    for content, suffix in product([b"", b"junk", b"\x80\x04\x95"], [".safetensors", ".pth"]):
        path = tmp_path / f"w{suffix}"
        path.write_bytes(content)
        with pytest.raises(InputError, match="cannot be read as weights"):
            tensors(str(path), "conv4")


def test_what_is_not_tensors_by_name_is_refused(tmp_path):
    for held in ([torch.zeros(2)], {"state_dict": {"a": torch.zeros(2)}}):
        torch.save(held, tmp_path / "w.pth")
        with pytest.raises(InputError, match="allowed: tensors by name alone"):
            tensors(str(tmp_path / "w.pth"), "conv4")


def test_a_missing_file_another_kind_of_file_and_a_backbone_without_weights_are_refused(tmp_path):
    for ask in (identity, tensors):
        for weights, told in (
            (str(tmp_path / "absent.pth"), r"absent.pth is missing; put the file there"),
            ("weights.bin", r"came 'weights.bin'; allowed: a file of"),
            ("imagenet", "came 'imagenet' for the backbone 'conv4'; allowed"),
        ):
            with pytest.raises(InputError, match=told):
                ask(weights, "conv4")


def test_a_relative_path_is_from_the_projects_root(tmp_path, monkeypatch):
    save_file({"a": torch.ones(2)}, tmp_path / "w.safetensors")
    monkeypatch.setenv("DVC_ROOT", str(tmp_path))
    assert identity("w.safetensors", "conv4") == sha256(tmp_path / "w.safetensors")
    assert torch.equal(tensors("w.safetensors", "conv4")["a"], torch.ones(2))


# --- ImageNet --------------------------------------------------------------------------------


def test_weights_are_told_apart_by_their_files_name():
    assert tensors("none", "conv4") is None
    assert identity("none", "conv4") == "none"
    assert {name: identity("imagenet", name) for name in IMAGENET} == {
        "googlenet": "googlenet-1378be20.pth",
        "resnet50": "resnet50-0676ba61.pth",
        "mobilenet_v2": "mobilenet_v2-b0353104.pth",
    }


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


def test_a_download_is_taken_by_its_hash_only(tmp_path, monkeypatch):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "home"))
    torch.save({"a": torch.arange(3)}, tmp_path / "w.pth")

    def entry(digest):
        path = tmp_path / f"w-{digest}.pth"
        path.write_bytes((tmp_path / "w.pth").read_bytes())
        weights = Weights(url=path.as_uri(), transforms=None, meta={})
        return path, WeightsEnum("Here", {"V1": weights}).V1

    path, right = entry(sha256(tmp_path / "w.pth")[:8])
    for _ in range(2):  # the second time it is in torch's cache
        assert torch.equal(pretrained.downloaded(right)["a"], torch.arange(3))
        path.unlink(missing_ok=True)
    with pytest.raises(InputError, match="could not be had .*hash"):
        pretrained.downloaded(entry("0123abcd")[1])
