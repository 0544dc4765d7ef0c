import os

import pytest
import torch

from heated.common.tensors import read_tensors, write_tensors


@pytest.mark.parametrize("umask", [0o022, 0o002, 0o077])
def test_a_file_has_the_permissions_of_the_users_umask(tmp_path, umask):
    path, former = tmp_path / "a.safetensors", os.umask(umask)
    try:
        write_tensors(path, {"a": torch.ones(2)}, "record", {"x": 0.1})
    finally:
        os.umask(former)
    assert path.stat().st_mode & 0o777 == 0o666 & ~umask
    tensors, record = read_tensors(path, "record")
    assert torch.equal(tensors["a"], torch.ones(2))
    assert record == {"x": 0.1}
