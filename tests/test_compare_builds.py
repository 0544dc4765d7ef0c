import time

import numpy as np
from compare_builds import main
from safetensors.numpy import save_file

from heated.common.io import write_arrays, write_json


def write_build(folder, bias=0.5, name="head.bias"):
    run = folder / "runs/digits/bn"
    (run / "models").mkdir(parents=True)
    tensors = {"weight": np.ones((2, 3), np.float32), name: np.array([bias], np.float32)}
    save_file(tensors, run / "models/seed-0.safetensors")
    write_arrays(run / "embeddings/seed-0.npz", embeddings=np.eye(2))
    write_json(run / "provenance.json", {"seconds": time.time()})
    write_json(folder / "metrics/digits/bn.json", {"recall": bias})
    return str(folder)


def test_builds_are_compared_to_the_last_bit_without_names_of_tensors(tmp_path, capsys):
    hashes = str(tmp_path / "hashes.json")
    assert main("keep", hashes, write_build(tmp_path / "1")) == 0
    assert main("compare", hashes, write_build(tmp_path / "2", name="bias")) == 0
    assert "3 of 3 results are equal" in capsys.readouterr().out
    next_bias = float(np.nextafter(np.float32(0.5), np.float32(1)))
    changed = write_build(tmp_path / "3", bias=next_bias)
    (tmp_path / "3/runs/digits/bn/embeddings/seed-0.npz").unlink()
    assert main("compare", hashes, changed) == 1
    assert capsys.readouterr().out.splitlines()[:3] == [
        "different: metrics/digits/bn.json",
        "missing: runs/digits/bn/embeddings/seed-0.npz",
        "different: runs/digits/bn/models/seed-0.safetensors",
    ]
