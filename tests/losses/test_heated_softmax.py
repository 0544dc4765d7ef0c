import copy
import math
import os
import subprocess
import sys
from itertools import product

import numpy as np
import pytest
import torch
from conftest import ROOT
from pytorch_metric_learning.losses import MultipleLosses, NormalizedSoftmaxLoss
from pytorch_metric_learning.miners import TripletMarginMiner
from scipy.special import log_softmax, softmax
from torch._dynamo.testing import CompileCounter
from torch.utils.checkpoint import checkpoint

import heated
from heated.losses.embedding_norm import NORMALIZATIONS, BatchNormEmbedding
from heated.losses.heated_softmax import ADAPTATIONS, BIASES, DENOMINATORS, HeatedSoftmax

N, C, D = 6, 4, 5
ALPHA, EPS = 3.0, 1e-3
ROWS = np.random.default_rng(0).normal(0.5, 2.0, (N, D))
LABELS = np.array([0, 1, 2, 3, 1, 0])
BIAS = np.array([0.5, -1.0, 0.25, 0.75])
SHIFT = np.linspace(-0.5, 0.5, D)
FREE = ("none", "l2_embeddings")  # normalizations with free class weights
BATCH = torch.from_numpy(ROWS), torch.from_numpy(LABELS)


def make_head(normalize="l2", *, bias="outside", alpha=ALPHA, **options):
    """Build a head in float64 whose bias and shift are not 0."""
    torch.manual_seed(0)
    head = HeatedSoftmax(C, D, normalize=normalize, alpha=alpha, bias=bias, **options).double()
    with torch.no_grad():
        if head.bias is not None:
            head.bias.copy_(torch.from_numpy(BIAS))
        for shift in head.normalization.parameters():
            shift.copy_(torch.from_numpy(SHIFT))
    return head


def assert_close(actual, expected):
    np.testing.assert_allclose(actual.detach().numpy(), expected, rtol=1e-9, atol=1e-12)


def unit(rows):
    return rows / np.sqrt((rows**2).sum(axis=1, keepdims=True))


def normalize_rows(rows, normalize):
    if normalize == "batch":
        return ((rows - rows.mean(axis=0)) / np.sqrt(rows.var(axis=0) + EPS) + SHIFT) / D**0.5
    if normalize == "layer":
        return unit(rows - rows.mean(axis=1, keepdims=True))
    return rows if normalize == "none" else unit(rows)


def class_weights(head, normalize):
    weight = head.weight.detach().numpy()
    return weight if normalize in FREE else unit(weight)


def scale(z, bias, alpha=ALPHA):
    """Compute alpha (z + b) as in eq. 1, alpha z + b as in the authors' code, or alpha z."""
    return alpha * (z + BIAS * (bias == "inside")) + BIAS * (bias == "outside")


def through_unit(gradient, rows):
    """Take a gradient with respect to v / |v| to v by eq. 5, (I - v v^T) / |v|, row by row."""
    lengths, directions = np.linalg.norm(rows, axis=1, keepdims=True), unit(rows)
    jacobians = (np.eye(D) - directions[:, :, None] * directions[:, None, :]) / lengths[:, :, None]
    return np.einsum("nij,nj->ni", jacobians, gradient)


def through_batch_norm(gradient, rows):
    """Take a gradient with respect to batch norm / sqrt(D) to its input."""
    std = np.sqrt(rows.var(axis=0) + EPS)
    standard, inner = (rows - rows.mean(axis=0)) / std, gradient / D**0.5
    return (inner - inner.mean(axis=0) - standard * (inner * standard).mean(axis=0)) / std


def through_layer_norm(gradient, rows):
    """Take a gradient with respect to centered rows of length 1 to the rows."""
    inner = through_unit(gradient, rows - rows.mean(axis=1, keepdims=True))
    return inner - inner.mean(axis=1, keepdims=True)


def test_logits_loss_and_gradients_are_those_of_the_paper(subtests):
    """Eq. 1 to 3 and 5."""
    for normalize, bias, smoothing in product(NORMALIZATIONS, BIASES, (0.0, 0.1)):
        with subtests.test(normalize=normalize, bias=bias, smoothing=smoothing):
            head = make_head(normalize, bias=bias, label_smoothing=smoothing)
            f, w = normalize_rows(ROWS, normalize), class_weights(head, normalize)
            logits = scale(f @ w.T, bias)
            p, q = (
                softmax(logits, axis=1),
                (1 - smoothing) * np.eye(C)[LABELS] + smoothing / C,
            )  # eq. 2
            assert_close(head.logits(BATCH[0]), logits)
            embeddings, normalized = BATCH[0].clone().requires_grad_(), []
            head.normalization.register_forward_hook(
                lambda *hook, to=normalized: to.append(hook[-1])
            )
            loss, correct = head.loss_and_correct(embeddings, BATCH[1])
            assert_close(loss, -(q * np.log(p)).sum(axis=1).mean())
            assert correct == (logits.argmax(axis=1) == LABELS).sum()

            loss.backward(inputs=[embeddings, normalized[0], *head.parameters()])
            error = (p - q) / N  # the loss is a mean
            by_z = ALPHA * error  # eq. 2
            by_f, by_w = by_z @ w, by_z.T @ f  # eq. 3
            outer = {"none": by_f, "batch": through_batch_norm(by_f, ROWS)}
            outer["layer"] = through_layer_norm(by_f, ROWS)
            assert_close(normalized[0].grad, by_f)
            assert_close(embeddings.grad, outer.get(normalize, through_unit(by_f, ROWS)))
            raw = head.weight.detach().numpy()
            assert_close(head.weight.grad, by_w if normalize in FREE else through_unit(by_w, raw))
            if bias != "none":
                assert_close(head.bias.grad, (by_z if bias == "inside" else error).sum(axis=0))
            if normalize == "batch":
                assert_close(head.normalization.shift.grad, by_f.sum(axis=0) / D**0.5)


def test_free_class_weights_alone_have_a_length_and_embeddings_may_be_normalized_before():
    for normalize in NORMALIZATIONS:
        head = make_head(normalize)
        before = head.logits(BATCH[0])
        other = make_head("none", unit_weights=head.unit_weights)
        assert torch.equal(other.logits(head.normalization(BATCH[0])), before)
        with torch.no_grad():
            head.weight.mul_(7)
        is_same = torch.allclose(head.logits(BATCH[0]), before)
        assert is_same == (normalize not in FREE), normalize


def test_the_compared_embedding_is_the_networks_output_or_the_batch_normed_one():
    for normalize in ("l2", *FREE):
        assert_close(make_head(normalize).eval().embedding(BATCH[0]), ROWS)
    module = BatchNormEmbedding(D, momentum=1.0, eps=EPS)
    head = make_head(module)
    assert head.normalization is module
    head.logits(BATCH[0])  # the running statistics become those of this batch
    std = np.sqrt(ROWS.var(axis=0, ddof=1) + EPS)
    expected = ((ROWS - ROWS.mean(axis=0)) / std + SHIFT) / D**0.5
    assert_close(head.eval().embedding(BATCH[0]), expected)


def test_the_default_is_the_papers_bn():
    head = HeatedSoftmax(C, D)
    assert isinstance(head.normalization, BatchNormEmbedding)
    assert (head.alpha, head.bias_inside, head.label_smoothing) == (16, False, 0)
    assert torch.equal(head.bias, torch.zeros(C))
    assert [name for name, _ in make_head(bias="none").named_parameters()] == ["weight"]
    torch.manual_seed(0)
    weight = HeatedSoftmax(2000, 64).weight.detach()  # a normal cut off at two deviations
    assert weight.var().item() == pytest.approx(1 / 64, rel=0.02)
    assert weight.abs().max().item() == pytest.approx(2 / 8 / 0.8796, rel=0.001)


def test_alpha_is_a_buffer_that_is_set_in_place_and_changes_the_loss():
    head, other = make_head(), make_head(alpha=1.0)
    parameters, address = list(map(id, head.parameters())), head._alpha.data_ptr()
    for alpha in (16, 4.0, 0.25):
        head.alpha = alpha
        log_p = log_softmax(
            scale(unit(ROWS) @ class_weights(head, "l2").T, "outside", alpha), axis=1
        )
        assert_close(head(*BATCH), -log_p[np.arange(N), LABELS].mean())
        assert head.alpha == alpha
    assert list(map(id, head.parameters())) == parameters
    assert head._alpha.data_ptr() == address
    assert (head._alpha.shape, head._alpha.dtype) == ((), torch.float64)  # follows .double()
    other.load_state_dict(head.state_dict())
    assert other.alpha == 0.25


def test_adacos_follows_its_equations_in_training_mode_only():
    head = make_head(bias="none", adaptation="adacos")
    start = math.sqrt(2) * math.log(C - 1)
    head.eval()(*BATCH)
    assert head.alpha == pytest.approx(start, rel=1e-6)
    z = head.similarities(BATCH[0]).detach().numpy()
    is_target = np.eye(C, dtype=bool)[LABELS]
    mean = (np.exp(start * z) * ~is_target).sum() / N  # eq. 15's B
    median = np.sort(np.arccos(z[is_target]))[(N - 1) // 2]
    head.train()(*BATCH)
    expected = math.log(mean) / math.cos(min(math.pi / 4, median))
    assert head.alpha == pytest.approx(expected, rel=1e-6)
    assert not head.adaptation.current.requires_grad


def test_a_learned_alpha_follows_its_gradient_and_stays_positive():
    head, step = make_head(bias="none", alpha=7.0, adaptation="learned"), 1e-5
    assert head.alpha == pytest.approx(7)
    head(*BATCH).backward()
    fixed, losses = make_head(bias="none"), []
    for sign in (1, -1):
        fixed.alpha = 7 * math.exp(sign * step)
        losses.append(fixed(*BATCH).item())
    slope = (losses[0] - losses[1]) / (2 * step)
    assert head.adaptation.exponent.grad.item() == pytest.approx(slope, rel=1e-5)
    with torch.no_grad():
        head.adaptation.exponent.fill_(-20)
    assert head.alpha > 0


def test_the_state_dict_is_complete():
    for adaptation in ADAPTATIONS:
        head, other = (make_head("batch", adaptation=adaptation) for _ in range(2))
        head.train()(*BATCH).backward()
        with torch.no_grad():
            for parameter in head.parameters():
                parameter.sub_(parameter.grad)
        other.load_state_dict(head.state_dict())
        assert other.alpha == head.alpha
        assert torch.equal(other.eval()(*BATCH), head.eval()(*BATCH))


def test_the_denominator_of_negatives_only_is_proxy_ncas():
    """Movshovitz-Attias et al., eq. 3, over squared distances of unit vectors."""
    head = make_head(bias="none", alpha=2, denominator="negatives_only")
    distances = ((unit(ROWS)[:, None] - class_weights(head, "l2")) ** 2).sum(axis=2)
    is_target = np.eye(C, dtype=bool)[LABELS]
    negatives = np.where(is_target, 0, np.exp(-distances)).sum(axis=1)
    assert_close(head(*BATCH), -np.log(np.exp(-distances[is_target]) / negatives).mean())


def test_an_empty_batch_has_a_loss_of_0_connected_to_all_parameters():
    for adaptation, denominator in product(ADAPTATIONS, DENOMINATORS):
        head = make_head(adaptation=adaptation, denominator=denominator)
        alpha = head.alpha
        loss, correct = head.loss_and_correct(BATCH[0][:0], BATCH[1][:0])
        loss.backward()
        assert (loss.item(), correct.item(), head.alpha) == (0, 0, alpha)
        assert all(not parameter.grad.any() for parameter in head.parameters())


def gradients_of(head, *alphas):
    """The embeddings' gradient of one forward pass and backward per alpha, summed."""
    total = 0
    for alpha in alphas:
        other, embeddings = copy.deepcopy(head), BATCH[0].clone().requires_grad_()
        other.alpha = alpha
        other(embeddings, BATCH[1]).backward()
        total = total + embeddings.grad
    return total


@pytest.mark.parametrize("adaptation", ADAPTATIONS)
def test_alpha_reads_as_a_number_and_is_set_for_the_next_forward_pass(adaptation):
    head = make_head(bias="none", adaptation=adaptation)
    first, expected = gradients_of(head, 16.0), gradients_of(head, 16.0, 4.0)
    recorded, embeddings = [], BATCH[0].clone().requires_grad_()
    head.alpha = 16.0
    recorded.append(head.alpha)
    loss = head(embeddings, BATCH[1])
    head.alpha = 4.0  # before backward
    recorded.append(head.alpha)
    assert recorded == [16.0, 4.0]
    (gradient,) = torch.autograd.grad(loss, embeddings, retain_graph=True)
    assert torch.equal(gradient, first)
    (loss + head(embeddings, BATCH[1])).backward()
    torch.testing.assert_close(embeddings.grad, expected)
    head.eval()
    head.alpha = min(head.alpha, 2.0)  # clipped
    assert head.alpha == 2.0
    assert_close(head.logits(BATCH[0]), 2.0 * head.similarities(BATCH[0]).detach().numpy())


@pytest.mark.parametrize("adaptation", ADAPTATIONS)
def test_checkpointed_activations_give_the_same_gradients_and_alpha(adaptation):
    heads = [make_head(bias="none", adaptation=adaptation) for _ in range(2)]
    inputs = [BATCH[0].clone().requires_grad_() for _ in heads]
    for _ in range(2):
        checkpoint(heads[0], inputs[0], BATCH[1], use_reentrant=False).backward()
        heads[1](inputs[1], BATCH[1]).backward()
    assert heads[0].alpha == heads[1].alpha
    assert torch.equal(inputs[0].grad, inputs[1].grad)


@pytest.mark.parametrize("adaptation", ADAPTATIONS)
def test_a_compiled_loss_is_one_graph_for_every_alpha(adaptation):
    torch._dynamo.reset()
    plain, other = (make_head(bias="none", adaptation=adaptation) for _ in range(2))
    counter = CompileCounter()
    compiled = torch.compile(other, backend=counter, fullgraph=True)
    for alpha in (16.0, 8.0, 4.0):
        plain.alpha = compiled.alpha = alpha
        assert torch.equal(compiled(*BATCH), plain(*BATCH))
        assert compiled.alpha == plain.alpha
    assert counter.frame_count == 1


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_rows_of_any_length_have_finite_losses_and_gradients(dtype):
    for length, normalize in product((0.0, 1e-4, 1.0, 6e4), ("l2", "l2_embeddings")):
        head, embeddings = make_head(normalize).to(dtype), torch.tensor(ROWS, dtype=dtype)
        embeddings[0] = length * torch.eye(D)[0]
        row = head.normalization(embeddings)[0]
        assert row.tolist() == [float(length != 0), *[0.0] * (D - 1)]
        loss = head(embeddings.requires_grad_(), BATCH[1])
        loss.backward()
        for values in (loss, embeddings.grad, head.weight.grad):
            assert values.isfinite().all(), (length, normalize)


def test_an_alpha_outside_the_range_of_the_dtype_is_rejected():
    head = make_head().half()
    for alpha in (1e5, 1e-9):
        with pytest.raises(ValueError, match=f"got {alpha}, .* in torch.float16"):
            head.alpha = alpha
    assert head.alpha == ALPHA


def test_invalid_options_are_rejected_with_what_is_valid():
    head = make_head()
    for alpha in (0, -1.0, float("inf"), float("nan")):
        message = f"alpha: got {alpha!r}, expected a finite number above 0"
        with pytest.raises(ValueError, match=message):
            HeatedSoftmax(C, D, alpha=alpha)
        with pytest.raises(ValueError, match=message):
            head.alpha = alpha
        assert head.alpha == ALPHA
    for options, message in (
        ({"bias": "outer"}, "bias: .*'outer'.*outside, inside, none"),
        ({"normalize": "laier"}, "normalize: .*'laier'.*l2, l2_embeddings, batch, layer"),
        ({"reduction": "max"}, "reduction: .*'max'.*mean, sum, none"),
        ({"alpha": 2, "temperature": 1}, "alpha: got 2 and temperature 1, expected one of"),
        ({"temperature": 0}, "temperature: got 0, expected a finite number above 0"),
        ({"weight": [1.0]}, r"weight: got shape \(1,\), expected \(4,\)"),
        ({"adaptation": "adam"}, "adaptation: .*'adam'.*none, learned, adacos"),
        ({"denominator": "a"}, "denominator: .*'a'.*all, negatives_only"),
        (
            {"label_smoothing": 0.1, "denominator": "negatives_only"},
            "label_smoothing: got 0.1",
        ),
    ):
        with pytest.raises(ValueError, match=message):
            HeatedSoftmax(C, D, **options)
    with pytest.raises(ValueError, match="adacos: got 2 classes, expected at least 3"):
        HeatedSoftmax(2, D, adaptation="adacos")


@pytest.mark.parametrize("normalize", NORMALIZATIONS)
def test_the_loss_works_in_any_training_loop(normalize):
    torch.manual_seed(0)
    images, labels, losses = torch.randn(60, 8), torch.arange(60) % 3, []
    images[:, 0] += 2.0 * labels
    network = torch.nn.Linear(8, 4)
    head = heated.HeatedSoftmax(3, 4, normalize=normalize, alpha=8)
    optimizer = torch.optim.SGD([*network.parameters(), *head.parameters()], lr=0.05)
    for epoch in range(20):
        head.alpha = 8 if epoch < 15 else 2
        loss = head(network(images), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[14] < 0.7 * losses[0]
    assert losses[19] < losses[15]


def softmax_losses(head, labels):
    """Cross entropies (N,) of the head's logits, computed with scipy; labels (N, C)."""
    return -(labels * log_softmax(head.logits(BATCH[0]).detach().numpy(), axis=1)).sum(axis=1)


def test_reductions_class_weights_and_soft_labels_are_those_of_torch():
    hard, soft = np.eye(C)[LABELS], softmax(ROWS[:, :C], axis=1)
    weight = np.array([1.0, 2.0, 0.5, 4.0])
    plain, weighted = (make_head(weight=each).double() for each in (None, weight.tolist()))
    assert [name for name, _ in plain.named_buffers()] == ["_alpha"]
    for head, weights in ((plain, np.ones(C)), (weighted, weight)):
        for labels, targets in ((hard, BATCH[1]), (soft, torch.from_numpy(soft))):
            losses = softmax_losses(head, labels * weights)
            total = weights[LABELS].sum() if targets.ndim == 1 else N
            for reduction, expected in (
                ("none", losses),
                ("sum", losses.sum()),
                ("mean", losses.sum() / total),
            ):
                head.reduction = reduction
                loss, correct = head.loss_and_correct(BATCH[0], targets)
                assert_close(loss, expected)
                predicted = head.logits(BATCH[0]).argmax(dim=1).numpy()
                assert correct == (predicted == labels.argmax(axis=1)).sum()
    assert_close(plain(BATCH[0], BATCH[1].int()), plain(*BATCH).detach().numpy())


def test_a_miners_pairs_weigh_samples_as_in_pytorch_metric_learning(subtests):
    """Its NormalizedSoftmaxLoss with the same proxies, and every kind of tuple of its miners."""
    theirs = NormalizedSoftmaxLoss(C, D, temperature=1 / ALPHA).double()
    ours = make_head(bias="none")
    with torch.no_grad():
        theirs.W.copy_(ours.weight.T)
    empty = torch.empty(0, dtype=torch.int64)
    indices = [torch.tensor(each) for each in ([0, 5, 0], [5, 0, 5], [1, 2], [0, 0])]
    for name, pairs in (
        ("none", None),
        ("pairs", tuple(indices)),
        ("triplets", (indices[0], indices[1], torch.tensor([1, 2, 3]))),
        ("empty", (empty,) * 4),
        ("a miner's", TripletMarginMiner(margin=0.2)(*BATCH)),
    ):
        with subtests.test(name):
            assert_close(ours(*BATCH, pairs), theirs(*BATCH, pairs).item())
            several = MultipleLosses([ours, theirs])(*BATCH, pairs)
            assert_close(several, 2 * theirs(*BATCH, pairs).item())
    ours.reduction = "none"
    assert ours(*BATCH, tuple(indices)).shape == (N,)
    assert_close(ours.get_logits(BATCH[0]), theirs.get_logits(BATCH[0]).detach().numpy())


def test_inputs_that_do_not_fit_are_rejected_in_words():
    head, soft = make_head(), torch.full((N, C), 1 / C)
    for embeddings, labels, message in (
        (BATCH[0][:, :3], BATCH[1], r"embeddings: got shape \(6, 3\), expected \(N, 5\)"),
        (BATCH[0][0], BATCH[1], r"embeddings: got shape \(5,\), expected \(N, 5\)"),
        (BATCH[0], BATCH[1][:2], r"labels: got torch.int64 of shape \(2,\), expected integers of"),
        (BATCH[0], soft[:, :2], r"shape \(6, 2\), .* or probabilities \(6, 4\)"),
        (BATCH[0], BATCH[1].float(), r"labels: got torch.float32 of shape \(6,\)"),
        (BATCH[0], BATCH[1] + 1, "labels: got 1 to 4, expected 0 to 3"),
        (BATCH[0], BATCH[1].index_fill(0, torch.tensor(1), -100), "labels: got -100 to 3"),
    ):
        with pytest.raises(ValueError, match=message):
            head(embeddings, labels)
    for options in ({"denominator": "negatives_only"}, {"adaptation": "adacos"}):
        with pytest.raises(ValueError, match="got probabilities, expected integers with"):
            make_head(bias="none", **options)(BATCH[0], soft)


def test_repr_names_sizes_and_options_and_a_temperature_is_1_over_alpha():
    head = HeatedSoftmax(C, D, temperature=0.25)
    assert "num_classes=4, embedding_dim=5, alpha=4, " in repr(head)
    assert (head.alpha, head.temperature) == (4, 0.25)
    head.temperature = 0.0625
    assert head.alpha == 16
    with pytest.raises(ValueError, match="temperature: got 0"):
        head.temperature = 0


def test_under_autocast_the_loss_is_that_of_the_weights_dtype():
    head, embeddings = make_head().float(), BATCH[0].bfloat16().requires_grad_()
    expected = head(embeddings.float(), BATCH[1])
    with torch.autocast("cpu", torch.bfloat16):
        loss = head(embeddings, BATCH[1])
        assert head.logits(embeddings).dtype == torch.float32
    loss.backward()
    assert torch.equal(loss, expected)
    assert (embeddings.grad.dtype, head.weight.grad.dtype) == (torch.bfloat16, torch.float32)


def test_a_copy_is_independent():
    head = make_head(adaptation="learned")
    other = copy.deepcopy(head)
    assert torch.equal(other(*BATCH), head(*BATCH))
    other.alpha = 1.0
    assert head.alpha == pytest.approx(ALPHA)


DISTRIBUTED = """
import sys
import torch
from torch import distributed
from torch.nn.parallel import DistributedDataParallel
from heated import AlphaScheduler, HeatedSoftmax

distributed.init_process_group("gloo")
torch.manual_seed(0)
embeddings, labels = torch.randn(8, 5), torch.arange(8) % 4
loss = HeatedSoftmax(4, 5, normalize="l2", adaptation="learned")
wrapped = DistributedDataParallel(loss)
scheduler = AlphaScheduler(loss, "step", start=16, end=4, at=0.5, total=4)
optimizer = torch.optim.SGD(wrapped.parameters(), lr=0.1)
part = slice(distributed.get_rank(), None, distributed.get_world_size())
for _ in range(4):
    optimizer.zero_grad()
    wrapped(embeddings[part], labels[part]).backward()
    optimizer.step()
    scheduler.step()
if distributed.get_rank() == 0:
    torch.save(loss.state_dict(), sys.argv[1])
distributed.destroy_process_group()
"""


@pytest.mark.slow
def test_distributed_data_parallel_trains_as_one_process_does(tmp_path):
    script, states = tmp_path / "script.py", []
    script.write_text(DISTRIBUTED, encoding="utf-8")
    for processes in (1, 2):
        torchrun = ("-m", "torch.distributed.run", f"--nproc-per-node={processes}")
        path = tmp_path / f"{processes}.pt"
        environment = os.environ | {"PYTHONPATH": str(ROOT / "src"), "OMP_NUM_THREADS": "1"}
        command = [sys.executable, *torchrun, "--standalone", str(script), str(path)]
        subprocess.run(command, env=environment, check=True, capture_output=True)
        states.append(torch.load(path))
    torch.testing.assert_close(*states)
    assert states[0]["_alpha"] == 4
