import time

import numpy as np
from compare_builds import hashes, main
from safetensors.numpy import save_file

from heated.common.io import write_arrays, write_json


def build(folder, bias=0.5, name="head.bias"):
    tensors = {"weight": np.ones((2, 3), np.float32), name: np.array([bias], np.float32)}
    model = folder / "runs/digits/bn/models/seed-0.safetensors"
    model.parent.mkdir(parents=True)
    save_file(tensors, model)
    write_arrays(folder / "runs/digits/bn/embeddings/seed-0.npz", embeddings=np.eye(2))
    write_json(folder / "runs/digits/bn/provenance.json", {"seconds": time.time()})
    write_json(folder / "metrics.json", {"recall": bias})
    return folder


def test_an_equal_build_is_equal_whatever_its_tensors_are_called(tmp_path, capsys):
    one, other = build(tmp_path / "1"), build(tmp_path / "2", name="bias")
    assert main("keep", str(tmp_path / "kept.json"), str(one)) == 0
    assert main("compare", str(tmp_path / "kept.json"), str(other)) == 0
    assert "3 of 3 results are equal" in capsys.readouterr().out


def test_the_last_bit_and_a_lost_file_are_seen(tmp_path, capsys):
    one = build(tmp_path / "1")
    other = build(tmp_path / "2", bias=float(np.nextafter(np.float32(0.5), np.float32(1))))
    (other / "runs/digits/bn/embeddings/seed-0.npz").unlink()
    main("keep", str(tmp_path / "kept.json"), str(one))
    assert main("compare", str(tmp_path / "kept.json"), str(other)) == 1
    told = capsys.readouterr().out
    for line in ("different: metrics.json", "missing: runs/digits/bn/embeddings/seed-0.npz"):
        assert line in told
    assert "different: runs/digits/bn/models/seed-0.safetensors" in told
    assert len(hashes(one)) == 3
