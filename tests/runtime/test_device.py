import os
import subprocess
import sys
from dataclasses import asdict
from inspect import signature

import numpy as np
import pytest
import torch
from conftest import ROOT
from recipes import make_data, make_recipe

from heated.common.errors import InputError
from heated.common.history import NullLogger
from heated.data.packed_dataset import MemmapImages, device_images
from heated.evaluation.clustering import KMEANS, lloyd
from heated.evaluation.ranking import NeighborSearch
from heated.models.embedding_model import ModelWithLoss, load_model
from heated.runtime import device as device_module
from heated.runtime.device import (
    FORMATS,
    JOBS,
    float32_products,
    image_budget,
    machine_kmeans,
    machine_settings,
    setup_device,
)
from heated.training import monitor
from heated.training.loop import PRECISIONS
from heated.training.provenance import make_provenance
from heated.training.training_run import TrainingRun

CPU, GPU = torch.device("cpu"), torch.device("cuda")
MATMUL = torch.backends.cuda.matmul
ALLOWED = {"cuda.matmul": "tf32", "cudnn.conv": "tf32", "mkldnn.matmul": "bf16"}


def formats():
    return {name: each.fp32_precision for name, each in FORMATS.items()}


@pytest.fixture
def low_formats():
    """Settings that a user, a library or an environment variable may have made."""
    saved, reduced = formats(), MATMUL.allow_bf16_reduced_precision_reduction
    for name, value in ALLOWED.items():
        FORMATS[name].fp32_precision = value
    MATMUL.allow_bf16_reduced_precision_reduction = True
    yield formats()
    for name, value in saved.items():
        FORMATS[name].fp32_precision = value
    MATMUL.allow_bf16_reduced_precision_reduction = reduced


@pytest.mark.parametrize("tf32", [False, True])
def test_products_have_the_format_asked_for_and_every_setting_is_restored(low_formats, tf32):
    def check():
        inside = formats()
        assert {inside[name] for name in inside if "mkldnn" in name} == {"ieee"}
        expected = {"tf32" if tf32 else "ieee"}
        assert {inside[name] for name in inside if "mkldnn" not in name} == expected
        assert not MATMUL.allow_bf16_reduced_precision_reduction

    decorated = float32_products(tf32=tf32)(check)
    for _ in range(2):
        decorated()
        assert (formats(), MATMUL.allow_bf16_reduced_precision_reduction) == (low_formats, True)
    with pytest.raises(KeyError), float32_products(tf32=tf32):
        raise KeyError
    assert (formats(), MATMUL.allow_bf16_reduced_precision_reduction) == (low_formats, True)


def test_an_environment_variable_switches_tf32_on_and_its_setting_is_restored_too():
    code = """
from heated.runtime.device import float32_products, torch
matmul = torch.backends.cuda.matmul
with float32_products():
    inside = matmul.fp32_precision
print(inside, matmul.fp32_precision, matmul.allow_tf32)
"""
    environment = os.environ | {"TORCH_ALLOW_TF32_CUBLAS_OVERRIDE": "1"}
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["ieee", "tf32", "True"]


def train(folder, **changes):
    """The run, with its models in `folder`, and its history."""
    run = TrainingRun(make_recipe(**changes), make_data([0, 1, 2], [3, 4]), "", CPU, folder / "c")
    return run, run.train_seeds([0], folder, NullLogger())[0]["history"]


@pytest.mark.parametrize("precision", PRECISIONS)
def test_steps_use_the_recipes_format_and_measuring_uses_float32(
    precision, low_formats, tmp_path, monkeypatch
):
    seen = {"step": [], "screen": [], "embed": []}

    def spy(module, name, key):
        function = getattr(module, name)

        def wrapper(*arguments):
            seen[key].append(MATMUL.fp32_precision)
            return function(*arguments)

        monkeypatch.setattr(module, name, wrapper)

    spy(torch.optim.SGD, "step", "step")
    spy(monitor, "scaled_cosines", "screen")
    spy(ModelWithLoss, "forward", "embed")
    run, _ = train(tmp_path, precision=precision, init="batch_norm")
    assert {*seen["step"]} == {"tf32" if precision == "tf32" else "ieee"}
    assert {*seen["screen"]} == {*seen["embed"]} == {"ieee"}
    assert formats() == low_formats
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda _: "a card")
    object.__setattr__(run, "device", GPU)
    record = make_provenance(run, {"recipe": "", "method": ""}, {})["environment"]
    assert (record["device"], record["cuda"]) == ("a card", torch.version.cuda)
    assert record["cuda.matmul.fp32_precision"] == seen["step"][0]
    assert {"cudnn", "cudnn.benchmark", "deterministic"} <= record.keys()


def test_ranking_and_kmeans_multiply_in_float32_and_restore_the_format(low_formats, monkeypatch):
    seen, mm = [], torch.mm

    def spy(*arguments, **options):
        seen.append((MATMUL.fp32_precision, MATMUL.allow_bf16_reduced_precision_reduction))
        return mm(*arguments, **options)

    monkeypatch.setattr(torch, "mm", spy)
    embeddings, labels = torch.randn(60, 8, dtype=torch.float64), torch.arange(60) % 6
    search = NeighborSearch(embeddings, labels, max_k=1)
    for block in search.blocks:
        search.ranks(block)
    ranked = len(seen)
    lloyd(search.unit, 6, iterations=2, generator=torch.Generator().manual_seed(0))
    assert 0 < ranked < len(seen)
    assert {*seen} == {("ieee", False)}
    assert (formats(), MATMUL.allow_bf16_reduced_precision_reduction) == (low_formats, True)


def test_tf32_is_refused_where_there_is_none_and_auto_names_what_runs(monkeypatch):
    with pytest.raises(InputError, match="precision: got 'tf32' on cpu, .* expected float32"):
        machine_settings({"precision": "tf32", "cuda_graphs": True}, CPU, 1)
    assert machine_settings({"precision": "auto", "cuda_graphs": True}, CPU, 2, True) == {
        "precision": str(device_module.fast_dtype(CPU)).removeprefix("torch."),
        "threads": 2,
        "deterministic": True,
        "cuda_graphs": False,
    }
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    for capability, expected in (((7, 5), False), ((8, 0), True), ((9, 0), True)):
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _, c=capability: c)
        assert device_module.has_tf32(GPU) == expected


def test_cuda_graphs_need_a_gpu_one_process_and_the_heated_softmax(monkeypatch):
    def runs(device, **changes):
        settings = {"precision": "float32", "cuda_graphs": True} | changes
        return machine_settings(settings, device, 1)["cuda_graphs"]

    assert runs(GPU)
    assert runs(GPU, loss=None)
    assert not runs(CPU)
    assert not runs(GPU, cuda_graphs=False)
    assert not runs(GPU, loss={"name": "triplet"})
    monkeypatch.setattr(device_module, "rank_and_world_size", lambda: (0, 2))
    assert not runs(GPU)


@pytest.mark.parametrize(
    ("device", "fast", "expected"),
    [
        (GPU, torch.float32, {"name": "lloyd", "restarts": 2, "iterations": 30}),
        (CPU, torch.bfloat16, {"name": "lloyd", "restarts": 2, "iterations": 30}),
        (CPU, torch.float32, {"name": "scikit-learn", "restarts": 2}),
    ],
)
def test_kmeans_auto_takes_the_faster_engine_with_options_that_it_has(
    monkeypatch, device, fast, expected
):
    monkeypatch.setattr(device_module, "fast_dtype", lambda _: fast)
    engine = machine_kmeans({"name": "auto", "restarts": 2, "iterations": 30}, device)
    assert engine == expected
    name = engine.pop("name")
    signature(KMEANS[name]).bind(None, None, seed=0, **engine)
    assert machine_kmeans({"name": name, **engine}, CPU) == {"name": name, **engine}


@pytest.mark.parametrize(
    ("capability", "known", "expected"),
    [
        ("AVX512", {"avx512_bf16": True}, torch.bfloat16),
        ("AVX512", {"amx_bf16": True}, torch.bfloat16),
        ("AVX512", {}, torch.float32),
        ("AVX2", {"avx512_bf16": True}, torch.float32),  # ATEN_CPU_CAPABILITY forbids it
    ],
)
def test_a_processor_is_fast_in_bfloat16_if_it_has_and_may_use_it(
    monkeypatch, capability, known, expected
):
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: capability)
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: known, raising=False)
    assert device_module.fast_dtype(CPU) == expected


@pytest.fixture
def restored_settings(monkeypatch):
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", "")
    threads, fill = torch.get_num_threads(), torch.utils.deterministic.fill_uninitialized_memory
    yield
    torch.use_deterministic_algorithms(False)
    torch.utils.deterministic.fill_uninitialized_memory = fill
    torch.set_num_threads(threads)


def test_deterministic_sets_what_a_gpu_needs_and_changes_no_bit_on_a_cpu(
    restored_settings, tmp_path
):
    found = []
    for deterministic in (False, True):
        folder = tmp_path / str(deterministic)
        folder.mkdir()
        device = setup_device(1, deterministic)
        assert torch.are_deterministic_algorithms_enabled() == deterministic
        run, history = train(folder, deterministic=deterministic)
        model = load_model(folder / "seed-0.safetensors", device)
        found.append((history, [each.tolist() for each in model.state_dict().values()]))
        assert asdict(run.recipe)["deterministic"] == deterministic
    assert torch.is_deterministic_algorithms_warn_only_enabled()
    assert os.environ["CUBLAS_WORKSPACE_CONFIG"] == ":4096:8"
    assert found[0] == found[1]


def test_images_take_at_most_half_of_what_one_of_several_jobs_may_use(monkeypatch):
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda _: (60, 80))
    for jobs, expected in (("1", 30), ("2", 20), ("8", 5)):
        monkeypatch.setenv(JOBS, jobs)
        assert image_budget(GPU) == expected
    monkeypatch.delenv(JOBS)
    assert image_budget(GPU) == 30
    images = np.zeros((31, 1, 1, 1), dtype=np.uint8)
    assert isinstance(device_images(images, np.arange(31), GPU), MemmapImages)


def test_stages_know_how_many_jobs_there_are():
    code = f"""
import os
from heated.pipeline import runner
runner.repro = lambda jobs: print(jobs, os.environ[{JOBS!r}]) or 0
runner.run_builder(3)
"""
    command = [sys.executable, "-c", code]
    with subprocess.Popen(
        command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, start_new_session=True
    ) as process:
        assert process.stdout.read().split() == [b"3", b"3"]
