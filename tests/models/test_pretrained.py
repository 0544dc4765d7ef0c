import os
from copy import deepcopy
from itertools import product

import pytest
import torch
import torchvision
from networks import LARGE, make_network
from safetensors.torch import save_file
from torch import nn
from torchvision.models._api import Weights, WeightsEnum

from heated.common.errors import InputError
from heated.common.io import sha256
from heated.models.backbones import bottleneck_name
from heated.models.pretrained import (
    IMAGENET,
    SUFFIXES,
    download_state_dict,
    load_pretrained,
    pretrained_state_dict,
    weights_id,
)


def torchvision_original(name):
    """Build torchvision's network with its classifiers, and random weights and statistics."""
    with torch.device("meta"):
        options = {"aux_logits": True, "init_weights": False} if name == "googlenet" else {}
        network = torchvision.models.get_model(name, weights=None, **options)
    network = network.to_empty(device="cpu")
    torch.manual_seed(1)
    for value in network.state_dict().values():
        value.copy_(0.5 + 0.1 * torch.rand(value.shape))
    return network


def test_weights_fill_all_but_the_bottleneck_and_compute_what_torchvisions_network_does(
    tmp_path, subtests
):
    files = [("mobilenet_v2", ".safetensors"), ("mobilenet_v2", ".pth")]
    for name, suffix in (("googlenet", ""), ("resnet50", ""), *files):
        with subtests.test(name=name, suffix=suffix):
            original = torchvision_original(name)
            state, path = original.state_dict(), tmp_path / f"weights{suffix}"
            if suffix:
                (torch.save if suffix == ".pth" else save_file)(state, path)
            eps = {each.eps for each in original.modules() if isinstance(each, nn.BatchNorm2d)}
            network = make_network(name, momentum=0.1, eps=eps.pop())
            before = deepcopy(network.state_dict())
            load_pretrained(network, pretrained_state_dict(str(path), name) if suffix else state)
            kept = (f"{bottleneck_name(network)}.", "num_batches_tracked")
            for key, value in network.state_dict().items():
                is_kept = key.startswith(kept[0]) or key.endswith(kept[1])
                assert torch.equal(value, before[key] if is_kept else state[key]), key
            last, absent = ("classifier", "fc") if name == "mobilenet_v2" else ("fc", "classifier")
            assert not hasattr(network, absent)
            images = torch.randn(2, 3, 64, 64)
            for each in (original, network):
                setattr(each.eval(), last, nn.Identity())
            with torch.no_grad():
                assert torch.equal(network(images), original(images))


def test_a_frozen_batch_norm_takes_the_files_statistics_and_keeps_them():
    for name in LARGE:
        network, state = make_network(name, frozen=True), torchvision_original(name).state_dict()
        load_pretrained(network, {k: v for k, v in state.items() if "tracked" not in k})
        network.train()(torch.randn(2, 3, 64, 64))
        running = {k: value for k, value in network.state_dict().items() if "running" in k}
        assert len(running) > 100
        assert all(torch.equal(value, state[key]) for key, value in running.items())


def test_small_networks_take_files_from_the_projects_root(tmp_path, monkeypatch):
    monkeypatch.setenv("DVC_ROOT", str(tmp_path))
    for name in ("lenet", "conv4"):
        other, network = make_network(name, seed=5), make_network(name)
        before, bottleneck = deepcopy(network.state_dict()), bottleneck_name(network)
        last = {key: value for key, value in before.items() if key.startswith(bottleneck)}
        assert len(last) == 2
        save_file(other.state_dict(), tmp_path / "w.safetensors")
        assert weights_id("w.safetensors", name) == sha256(tmp_path / "w.safetensors")
        load_pretrained(network, pretrained_state_dict("w.safetensors", name))
        for key, value in network.state_dict().items():
            assert torch.equal(value, last.get(key, other.state_dict()[key])), key


def message_of_rejection(name, weights):
    network = make_network(name)
    before = deepcopy(network.state_dict())
    with pytest.raises(InputError) as caught:
        load_pretrained(network, weights)
    torch.testing.assert_close(network.state_dict(), before, rtol=0, atol=0)
    return str(caught.value).splitlines()


def test_at_most_ten_missing_unknown_and_misshapen_keys_are_listed():
    state = dict(make_network("conv4").state_dict())
    del state["0.weight"]
    state |= {"4.weight": torch.zeros(2, 2), "heads.0": torch.zeros(3)}
    assert message_of_rejection("conv4", state) == [
        "training.weights: 3 keys do not fit the network:",
        "  0.weight: got none, expected (32, 3, 3, 3)",
        "  4.weight: got (2, 2), expected (32, 32, 3, 3)",
        "  heads.0: got (3,), expected none",
    ]
    with torch.device("meta"):
        other = torchvision.models.resnet50(weights=None)
    lines = message_of_rejection("mobilenet_v2", other.state_dict())
    count = int(lines[0].split()[1])
    assert (len(lines), lines[-1]) == (12, f"  and {count - 10} more")
    assert count > 300


class Code:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


def test_damaged_files_code_and_other_objects_are_rejected(tmp_path):
    torch.save({"weight": Code(tmp_path / "ran")}, tmp_path / "w.pth")
    with pytest.raises(InputError, match=r"w.pth cannot be read as weights \(UnpicklingError"):
        pretrained_state_dict(str(tmp_path / "w.pth"), "conv4")
    assert not (tmp_path / "ran").exists()
    for content, suffix in product([b"", b"junk", b"\x80\x04\x95"], SUFFIXES):
        path = tmp_path / f"w{suffix}"
        path.write_bytes(content)
        with pytest.raises(InputError, match="cannot be read as weights"):
            pretrained_state_dict(str(path), "conv4")
    for value in ([torch.zeros(2)], {"state_dict": {"a": torch.zeros(2)}}):
        torch.save(value, tmp_path / "w.pth")
        with pytest.raises(InputError, match="expected only tensors by name"):
            pretrained_state_dict(str(tmp_path / "w.pth"), "conv4")


def test_missing_files_other_suffixes_and_backbones_without_weights_are_rejected(tmp_path):
    for function in (weights_id, pretrained_state_dict):
        for weights, message in (
            (str(tmp_path / "absent.pth"), r"absent.pth does not exist. Put it there"),
            ("weights.bin", r"got 'weights.bin', expected a file of"),
            ("imagenet", "got 'imagenet' for the backbone 'conv4', expected"),
        ):
            with pytest.raises(InputError, match=message):
                function(weights, "conv4")


def test_imagenet_weights_are_identified_by_their_files_name():
    assert pretrained_state_dict("none", "conv4") is None
    assert weights_id("none", "conv4") == "none"
    digests = {"googlenet": "1378be20", "resnet50": "0676ba61", "mobilenet_v2": "b0353104"}
    for name in IMAGENET:
        assert weights_id("imagenet", name) == f"{name}-{digests[name]}.pth"


def test_a_download_is_checked_by_its_hash_and_cached(tmp_path, monkeypatch):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "home"))
    torch.save({"a": torch.arange(3)}, tmp_path / "w.pth")

    def entry(digest):
        path = tmp_path / f"w-{digest}.pth"
        path.write_bytes((tmp_path / "w.pth").read_bytes())
        weights = Weights(url=path.as_uri(), transforms=None, meta={})
        return path, WeightsEnum("Here", {"V1": weights}).V1

    path, valid = entry(sha256(tmp_path / "w.pth")[:8])
    for _ in range(2):  # the second time from torch's cache
        assert torch.equal(download_state_dict(valid)["a"], torch.arange(3))
        path.unlink(missing_ok=True)
    with pytest.raises(InputError, match="cannot be downloaded .*hash"):
        download_state_dict(entry("0123abcd")[1])


def test_failed_downloads_and_other_files_in_torchs_cache_are_rejected(tmp_path, monkeypatch):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setenv("https_proxy", "http://127.0.0.1:9")  # nothing listens there
    monkeypatch.setenv("no_proxy", "")
    cache = tmp_path / "hub" / "checkpoints"
    with pytest.raises(InputError) as caught:
        pretrained_state_dict("imagenet", "mobilenet_v2")
    assert "mobilenet_v2-b0353104.pth cannot be downloaded" in str(caught.value)
    assert f"Put the file into {cache}, or set training.weights" in str(caught.value)
    cache.mkdir(parents=True, exist_ok=True)
    torch.save({}, cache / "googlenet-1378be20.pth")
    with pytest.raises(InputError, match=r"googlenet-1378be20.pth has the wrong SHA-256.*Remove"):
        pretrained_state_dict("imagenet", "googlenet")
