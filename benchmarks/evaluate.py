"""Measure the cost of exact evaluation, compared with its limit and with common libraries.

Retrieval: one pass for Recall@{1, 10, 100, 1000}, MAP@R and R-precision. The limit is the product
of all pairs of samples, each pair once. The library is pytorch-metric-learning's AccuracyCalculator
(faiss). k-means: faiss and scikit-learn, with equal initial centers and iterations. Embeddings are
random, with classes of equal size. The deviation of coordinate i is 1 / sqrt(i). The hard set has
more noise, so that Recall@1 is near 0.3; all embeddings of the collapsed one are equal.

    python benchmarks/evaluate.py --json benchmarks/results/evaluate.json
    python benchmarks/evaluate.py --n 12000 --classes 2260 --exact --parts retrieval
"""

import argparse
import gc
import json
import os
import statistics
import sys
import threading
import time
from collections.abc import Callable
from functools import partial
from importlib import import_module
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from heated.common.geometry import l2_normalize
from heated.evaluation.clustering import lloyd, squared_distances
from heated.evaluation.metrics import RetrievalScores, evaluate, retrieval_metrics
from heated.evaluation.ranking import NeighborSearch
from heated.runtime.device import fast_dtype, machine_kmeans, setup_device
from heated.runtime.environment import collect_environment

KS = [1, 10, 100, 1000]
MIB = 2**20
HARD_NOISE_OF_MANY = 1.44  # Recall@1 is lower among more classes
Figures = dict[str, Any]


def random_embeddings(n: int, dim: int, classes: int, *, noise: float) -> tuple[Tensor, Tensor]:
    """Return (n, dim) float32 embeddings and their labels, from a fixed seed."""
    generator = torch.Generator().manual_seed(0)
    deviation = torch.arange(1, dim + 1) ** -0.5
    labels = torch.arange(n) % classes
    centers = torch.randn(classes, dim, generator=generator)
    within = torch.randn(n, dim, generator=generator)
    return (centers[labels] + noise * within) * deviation, labels


def random_set(name: str, options: argparse.Namespace) -> tuple[Tensor, Tensor]:
    """Return the embeddings and labels of the easy, hard or collapsed set."""
    hard = 1.55 if options.n < 30_000 else HARD_NOISE_OF_MANY
    noise = options.noise * (hard if name == "hard" else 1)
    embeddings, labels = random_embeddings(options.n, options.dim, options.classes, noise=noise)
    return (torch.ones_like(embeddings) if name == "collapsed" else embeddings), labels


class PeakMemory:
    """Measure the additional peak memory of a block in MiB, of the GPU or of the process."""

    def __init__(self, device: torch.device) -> None:
        self.device, self.stopped = device, threading.Event()

    def current(self) -> float:
        """Return the memory in use in MiB."""
        if self.device.type == "cuda":
            return torch.cuda.max_memory_allocated() / MIB
        pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
        return pages * 4096 / MIB

    def sample(self) -> None:
        """Update the peak until the block ends."""
        while not self.stopped.wait(0.01):
            self.peak = max(self.peak, self.current())

    def __enter__(self) -> "PeakMemory":
        gc.collect()
        if self.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats()
        self.before = self.peak = self.current()
        self.thread = threading.Thread(target=self.sample)
        self.thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.peak = max(self.peak, self.current())
        self.stopped.set()
        self.thread.join()

    @property
    def additional(self) -> float:
        """The peak above the memory before the block."""
        return self.peak - self.before


def measure(function: Callable[[], Any], device: torch.device) -> tuple[Any, float, float]:
    """Return a function's result, seconds, and additional peak memory in MiB."""
    with PeakMemory(device) as memory:
        started = time.perf_counter()
        result = function()
        if device.type == "cuda":
            torch.cuda.synchronize()
        seconds = time.perf_counter() - started
    return result, seconds, memory.additional


def float32_product(embeddings: Tensor, memory_mib: int) -> None:
    """Compute the products of all pairs in float32, block by block into one buffer."""
    rows = max(1, memory_mib * MIB // 2 // (4 * len(embeddings)))
    buffer = embeddings.new_empty(rows, len(embeddings), dtype=torch.float32)
    values = embeddings.float()
    for block in values.split(rows):
        torch.mm(block, values.T, out=buffer[: len(block)])


def limit_product(embeddings: Tensor, size: int, dtype: torch.dtype) -> None:
    """Compute the product of each pair once, tile by tile."""
    blocks = embeddings.to(dtype).split(size)
    for i, block in enumerate(blocks):
        for other in blocks[i:]:
            torch.mm(block, other.T)


def accuracy_calculator(embeddings: Tensor, labels: Tensor) -> dict[str, float]:
    """Compute the scores by pytorch-metric-learning."""
    from pytorch_metric_learning.utils.accuracy_calculator import AccuracyCalculator

    names = ("precision_at_1", "mean_average_precision_at_r", "r_precision")
    calculator = AccuracyCalculator(include=names, k="max_bin_count")
    found = calculator.get_accuracy(l2_normalize(embeddings).float(), labels)
    return dict(zip(("recall_at_1", "map_at_r", "r_precision"), map(found.get, names), strict=True))


def brute_force(embeddings: Tensor, labels: Tensor) -> dict[str, float]:
    """Compute every score by sorting all cosines of each query in float64."""
    unit, scores = l2_normalize(embeddings), []
    counts = torch.bincount(labels)[labels] - 1
    for rows in torch.arange(len(labels), device=labels.device).split(256):
        cosines = unit[rows] @ unit.T
        cosines[torch.arange(len(rows)), rows] = -2
        nearest = cosines.argsort(dim=1, descending=True)
        hits = (labels[nearest] == labels[rows, None]).double()
        recalls = [hits[:, :k].amax(dim=1) for k in KS]
        places = torch.arange(1, hits.shape[1] + 1, device=labels.device)
        within = hits * (places <= counts[rows, None])
        precision = hits.cumsum(dim=1) / places * within
        rest = [precision.sum(dim=1) / counts[rows], within.sum(dim=1) / counts[rows]]
        scores.append(torch.stack(recalls + rest))
    means = torch.cat(scores, dim=1).mean(dim=1).tolist()
    return dict(
        zip([*(f"recall_at_{k}" for k in KS), "map_at_r", "r_precision"], means, strict=True)
    )


def largest_difference(ours: dict[str, float], theirs: dict[str, float]) -> float:
    """Return the largest difference between common scores."""
    return max(abs(ours[name] - value) for name, value in theirs.items())


def bench_retrieval(embeddings: Tensor, labels: Tensor, options: argparse.Namespace) -> Figures:
    """Measure retrieval; return medians over the repeats, and the scores."""
    device, dtype = embeddings.device, getattr(torch, options.dtype or "none", None)
    settings = {"recall_at_k": KS, "memory_mib": options.memory, "dtype": dtype}
    search = NeighborSearch(embeddings, labels, max_k=1, memory_mib=options.memory, dtype=dtype)
    tile, screen = search.tile, dtype or fast_dtype(device)
    del search
    sets = {name: random_set(name, options)[0].to(device) for name in ("hard", "collapsed")}
    functions: dict[str, Callable[[], Any]] = {
        "float32_product": lambda: float32_product(embeddings, options.memory),
        "limit": lambda: limit_product(embeddings, tile, screen),
        "recall": lambda: retrieval_metrics(embeddings, labels, with_map_at_r=False, **settings),
        "retrieval": lambda: retrieval_metrics(embeddings, labels, **settings),
        **{
            f"retrieval_{name}": partial(retrieval_metrics, vectors, labels, **settings)
            for name, vectors in sets.items()
        },
    }
    if find_spec("pytorch_metric_learning") and find_spec("faiss") and not options.no_peers:
        functions["accuracy_calculator"] = lambda: accuracy_calculator(embeddings, labels)
    results, seconds, memory = time_in_turn(functions, device, options.repeats)
    scores: RetrievalScores = results["retrieval"]
    figures = {
        "screen": str(screen).removeprefix("torch."),
        "tile": tile,
        **{f"{name}_s": statistics.median(times) for name, times in seconds.items()},
        **{f"{name}_mib": round(most) for name, most in memory.items()},
        "doubtful_share": scores.recomputed_share,
        **scores.values,
        "recall_ratio_to_float32_product": median_ratio(seconds, "recall", "float32_product"),
        "retrieval_ratio_to_float32_product": median_ratio(seconds, "retrieval", "float32_product"),
        "retrieval_ratio_to_limit": median_ratio(seconds, "retrieval", "limit"),
        **{
            f"{name}_ratio_to_easy": median_ratio(seconds, f"retrieval_{name}", "retrieval")
            for name in sets
        },
        "hard_recall_at_1": results["retrieval_hard"].values["recall_at_1"],
    }
    if "accuracy_calculator" in functions:
        figures["retrieval_ratio_to_peer"] = median_ratio(
            seconds, "retrieval", "accuracy_calculator"
        )
        theirs = results["accuracy_calculator"]
        figures["farthest_from_peer"] = largest_difference(scores.values, theirs)
    if options.exact:
        figures["farthest_from_float64"] = largest_difference(
            scores.values, brute_force(embeddings, labels)
        )
    return figures


def time_in_turn(
    functions: dict[str, Callable[[], Any]], device: torch.device, repeats: int
) -> tuple[dict[str, Any], dict[str, list[float]], dict[str, float]]:
    """Return the result, seconds per repeat and peak MiB of each function.

    They take turns, so that a slow minute of the machine affects all of them.
    """
    results: dict[str, Any] = {}
    seconds: dict[str, list[float]] = {name: [] for name in functions}
    memory = dict.fromkeys(functions, 0.0)
    for _ in range(repeats):
        for name, function in functions.items():
            results[name], taken, above = measure(function, device)
            seconds[name].append(taken)
            memory[name] = max(memory[name], above)
            print(f"{name:>24} {taken:8.2f} s {above:8.0f} MiB", flush=True)
    return results, seconds, memory


def median_ratio(seconds: dict[str, list[float]], one: str, other: str) -> float:
    """Return the median over the repeats of the ratio of seconds."""
    return statistics.median(a / b for a, b in zip(seconds[one], seconds[other], strict=True))


def bench_stage(embeddings: Tensor, labels: Tensor, options: argparse.Namespace) -> Figures:
    """Measure the stage `evaluate` on embeddings of one seed, by the recipe of `sop`."""
    every = torch.ones(len(labels), dtype=torch.bool, device=labels.device)
    arrays = {"embeddings": embeddings, "labels": labels, "query": every, "gallery": every}
    kmeans = {"name": options.kmeans, "restarts": 1}
    kmeans |= {"iterations": 300} if options.kmeans == "auto" else {}
    kmeans = machine_kmeans(kmeans, embeddings.device)
    settings = {"recall_at": KS, "kmeans": kmeans, "kmeans_seeds": [0, 1, 2], "memory_mib": 1024}
    _, seconds, memory = measure(lambda: evaluate(arrays, **settings), embeddings.device)
    return {"stage_s": seconds, "stage_mib": round(memory), "stage_kmeans": kmeans["name"]}


def bench_kmeans(embeddings: Tensor, options: argparse.Namespace) -> Figures:
    """Measure k-means here, in faiss and in scikit-learn, with equal centers and iterations."""
    unit, clusters, device = l2_normalize(embeddings), options.classes, embeddings.device

    def run_lloyd() -> Any:
        generator = torch.Generator().manual_seed(0)
        return lloyd(unit, clusters, iterations=options.iterations, generator=generator)

    rows = max(1, options.memory * MIB // (4 * clusters))
    peers = {"faiss": faiss_kmeans, "sklearn": scikit_learn_kmeans}
    peers = {k: v for k, v in peers.items() if find_spec(k) and not options.no_peers}
    for name in peers:  # not to measure the import
        import_module({"sklearn": "sklearn.cluster"}.get(name, name))
    found = run_lloyd()  # the peers make as many iterations
    functions: dict[str, Callable[[], Any]] = {
        "kmeans": run_lloyd,
        "products": lambda: products_with_centers(unit, clusters, rows),
        **{k: partial(v, unit, clusters, found.iterations) for k, v in peers.items()},
    }
    results, seconds, memory = time_in_turn(functions, device, options.repeats)
    per_product = median_ratio(seconds, "kmeans", "products")
    figures: Figures = {
        "kmeans_ratio_to_limit": per_product / (found.iterations + 1),
        "kmeans_s": statistics.median(seconds["kmeans"]),
        "kmeans_mib": round(memory["kmeans"]),
        "kmeans_iterations": found.iterations,
        "kmeans_converged": found.converged,
        "kmeans_objective": found.objective,
        "kmeans_auto": machine_kmeans({"name": "auto", "restarts": 1}, device)["name"],
    }
    for name in peers:
        figures[f"{name}_s"] = statistics.median(seconds[name])
        figures[f"{name}_mib"] = round(memory[name])
        figures[f"{name}_objective"] = results[name]
        figures[f"kmeans_ratio_to_{name}"] = median_ratio(seconds, "kmeans", name)
        figures[f"objective_ratio_to_{name}"] = found.objective / results[name]
    return figures


def products_with_centers(unit: Tensor, clusters: int, rows: int) -> None:
    """Compute the products of one iteration of k-means, block by block into one buffer."""
    low = unit.to(fast_dtype(unit.device))
    buffer = low.new_empty(rows, clusters)
    for block in low.split(rows):
        torch.mm(block, low[:clusters].T, out=buffer[: len(block)])


def faiss_kmeans(unit: Tensor, clusters: int, iterations: int) -> float:
    """Return the objective of faiss from the same centers, after a last assignment."""
    import faiss

    points = unit.float().cpu().numpy()
    model = faiss.Kmeans(
        points.shape[1],
        clusters,
        niter=iterations,
        min_points_per_centroid=1,
        max_points_per_centroid=len(points),  # else it trains on a sample
    )
    model.train(points, init_centroids=points[initial_centers(len(points), clusters)])
    _, labels = model.index.search(points, 1)
    centers = torch.from_numpy(model.centroids).double()
    return squared_distances(unit.cpu(), centers, torch.from_numpy(labels[:, 0])).mean().item()


def initial_centers(size: int, clusters: int) -> Any:
    """Return the samples that `lloyd` takes as initial centers."""
    return torch.randperm(size, generator=torch.Generator().manual_seed(0))[:clusters].numpy()


def scikit_learn_kmeans(unit: Tensor, clusters: int, iterations: int) -> float:
    """Return the objective of scikit-learn from the same centers."""
    from sklearn.cluster import KMeans

    points = unit.float().cpu().numpy()
    init = points[initial_centers(len(points), clusters)]
    model = KMeans(clusters, init=init, n_init=1, max_iter=iterations, tol=0)
    return float(model.fit(points).inertia_) / len(points)


def disagreements(figures: Figures) -> list[str]:
    """List the figures that differ from a reference by more than their tolerance."""
    allowed = {
        "farthest_from_float64": lambda value: value <= 1e-6,
        "farthest_from_peer": lambda value: value <= 1e-4,  # faiss ranks in float32
        "objective_ratio_to_faiss": lambda value: abs(value - 1) <= 0.005,
        "objective_ratio_to_sklearn": lambda value: abs(value - 1) <= 0.005,
    }
    return [
        f"{name} is {figures[name]}"
        for name, right in allowed.items()
        if name in figures and not right(figures[name])
    ]


def parse_arguments() -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--n", type=int, default=60_502, help="embeddings (default: %(default)s)")
    parser.add_argument("--dim", type=int, default=512, help="their size (default: %(default)s)")
    parser.add_argument("--classes", type=int, default=11_316, help="(default: %(default)s)")
    parser.add_argument(
        "--noise",
        type=float,
        default=1.0,
        help="deviation within a class, relative to the one between classes",
    )
    parser.add_argument("--threads", type=int, default=2, help="CPU threads (default: %(default)s)")
    parser.add_argument("--memory", type=int, default=128, help="MiB (default: %(default)s)")
    parser.add_argument("--dtype", choices=["bfloat16", "float32"], help="of the screen")
    parser.add_argument("--repeats", type=int, default=3, help="(default: %(default)s)")
    parser.add_argument("--iterations", type=int, default=20, help="of k-means, at most")
    parser.add_argument(
        "--parts",
        nargs="+",
        default=["retrieval", "kmeans"],
        help="retrieval, kmeans, stage (default: %(default)s)",
    )
    parser.add_argument(
        "--kmeans", default="scikit-learn", help="of the stage: %(default)s or auto"
    )
    parser.add_argument("--exact", action="store_true", help="compare with brute force in float64")
    parser.add_argument("--no-peers", action="store_true", help="leave out other libraries")
    parser.add_argument("--json", type=Path, help="where to write the figures")
    return parser.parse_args()


def main() -> None:
    """Measure, print a table and write JSON; fail if results disagree."""
    options = parse_arguments()
    load = os.getloadavg()[0]
    device = setup_device(options.threads)
    embeddings, labels = random_set("easy", options)
    embeddings, labels = embeddings.to(device), labels.to(device)
    figures: Figures = {
        key: getattr(options, key) for key in ("n", "dim", "classes", "noise", "threads", "memory")
    }
    figures["load_before"] = load
    if "retrieval" in options.parts:
        figures |= {"repeats": options.repeats, **bench_retrieval(embeddings, labels, options)}
    if "kmeans" in options.parts:
        figures |= bench_kmeans(embeddings, options)
    if "stage" in options.parts:
        figures |= bench_stage(embeddings, labels, options)
    peers = [name for name in ("faiss-cpu", "pytorch-metric-learning") if not options.no_peers]
    figures |= {**collect_environment(device), **{name: version(name) for name in peers}}
    for name, value in figures.items():
        print(f"{name:>36}  {f'{value:.6g}' if isinstance(value, float) else value}")
    if options.json:
        options.json.write_text(json.dumps(figures, indent=2) + "\n", encoding="utf-8")
    if problems := disagreements(figures):
        sys.exit("; ".join(problems))


if __name__ == "__main__":
    main()
