from copy import deepcopy
from itertools import product

import pytest
import torch

from heated.data.batches import Held
from heated.data.samplers import batches
from heated.models.backbones import bottleneck
from heated.models.embedding_model import Architecture, Model
from heated.training.loop import Progress, epoch_seed, train

SM = {"normalise": {"name": "none"}, "bias": "outside"}
LN = {"normalise": {"name": "l2"}, "bias": "outside"}
BN = {"normalise": {"name": "batch", "momentum": 0.05, "eps": 1e-3}, "bias": "outside"}
SGD = {"name": "sgd", "momentum": 0.9, "weight_decay": 0.0}
ADAM_TF = {"name": "adam_tf", "eps": 0.01}
ADAM = {"name": "adam", "eps": 0.01, "weight_decay": 0.0}
METHODS = {"sm": SM, "ln": LN, "bn": BN}
AFFINE = {"name": "affine", "degrees": 10, "scale": 0.1, "shear": 5, "shift": 0.1}


def built(method=BN, seed=0, augment=()):
    torch.manual_seed(seed)
    return Model(
        Architecture(
            image_shape=(6, 6, 1),
            num_classes=3,
            embedding_dim=4,
            backbone={"name": "conv4", "width": 16},
            label_smoothing=0.0,
            augment=list(augment),
            pixel_mean=0.5,
            pixel_std=0.5,
            **method,
        )
    )


def samples(size=12):
    generator = torch.Generator().manual_seed(7)
    images = torch.randint(256, (size, 6, 6, 1), generator=generator, dtype=torch.uint8)
    return images, torch.arange(size) % 3


def trained(model, data=None, *, alphas=(4.0,), lrs=(0.1,), log=lambda row: None, **changes):
    images, labels = samples() if data is None else data
    settings = {
        "batch_size": 4,
        "sampler": {"name": "shuffled"},
        "precision": "float32",
        "seed": 0,
        "watch_every": 1,
        "watch": dict,
        "keep": lambda progress: None,
    }
    progress = Progress.begin(
        model,
        changes.pop("optimiser", SGD),
        **{key: changes.pop(key) for key in [*changes] if key.endswith("lr_factor")},
    )
    if "start" in changes:
        progress.restore(*changes.pop("start"))
    settings |= changes
    train(progress, Held(images), labels, alphas=alphas, lrs=lrs, log=log, **settings)
    return progress.history


def drawing(seed):
    return torch.Generator().manual_seed(seed)


def logits_by_hand(name, head, raw, alpha):
    """Eq. 1 with the bias outside alpha, for the paper's three normalisations."""
    weight = head["weight"]
    if name == "ln":
        raw = raw / raw.square().sum(dim=1, keepdim=True).sqrt()
    if name == "bn":
        centred = raw - raw.mean(dim=0)
        standard = centred / (centred.square().mean(dim=0) + 1e-3).sqrt()
        raw = (standard + head["shift"]) / raw.shape[1] ** 0.5
    if name != "sm":
        weight = weight / weight.square().sum(dim=1, keepdim=True).sqrt()
    return alpha * raw @ weight.T + head["bias"]


def reference(name, model, *, alphas, lrs, batch_size, weight_decay=0.0):
    """Weights and losses of training with momentum 0.9, the update written out."""
    images, labels = samples()
    parameters = dict(model.named_parameters())
    prefixes = ("head.", "normalization.")
    head = {k.partition(".")[2]: v for k, v in parameters.items() if k.startswith(prefixes)}
    speeds = {key: torch.zeros_like(value) for key, value in parameters.items()}
    model.train()
    losses = []
    for epoch, (alpha, lr) in enumerate(zip(alphas, lrs, strict=True)):
        order = torch.randperm(len(labels), generator=drawing(epoch_seed(0, epoch)))
        total = 0.0
        for batch in order.split(batch_size):
            pixels = (images[batch].permute(0, 3, 1, 2) / 255 - 0.5) / 0.5
            logits = logits_by_hand(name, head, model.network(pixels), alpha)
            right = logits[torch.arange(len(batch)), labels[batch]]
            loss = (logits.exp().sum(dim=1).log() - right).mean()
            slopes = torch.autograd.grad(loss, list(parameters.values()))
            with torch.no_grad():
                for (key, value), slope in zip(parameters.items(), slopes, strict=True):
                    speeds[key] = 0.9 * speeds[key] + slope + weight_decay * value
                    value -= lr * speeds[key]
            total += loss.item() * len(batch)
        losses.append(total / len(labels))
    return losses


@pytest.mark.parametrize("name", METHODS)
def test_steps_equal_those_written_out_by_hand(name):
    one = {"alphas": [4.0], "lrs": [0.1], "batch_size": 12}  # a step of the gradient alone
    more = {"alphas": [4.0, 1.0], "lrs": [0.05, 0.005], "batch_size": 6, "weight_decay": 0.1}
    for options, digits in ((one, 1e-6), (more, 1e-5)):
        model = built(METHODS[name])
        expected, start = deepcopy(model), deepcopy(model)
        losses = reference(name, expected, **options)
        optimiser = SGD | {"weight_decay": options.pop("weight_decay", 0.0)}
        history = trained(model, **options, optimiser=optimiser)
        assert [row["loss"] for row in history] == pytest.approx(losses, abs=digits)
        for key, value in expected.named_parameters():
            torch.testing.assert_close(model.get_parameter(key), value, atol=digits, rtol=0)
        assert not torch.allclose(model.head.weight, start.head.weight, atol=1e-3)


@pytest.mark.parametrize("name", METHODS)
def test_a_parts_step_is_the_networks_times_its_factor(name):
    start = built(METHODS[name])
    plain = deepcopy(start)
    trained(plain, lrs=[0.01], batch_size=12)
    below = f"network.{bottleneck(start.network)}."
    prefixes = {"bottleneck": below, "head": ("head.", "normalization.")}
    for (part, prefix), factor in product(prefixes.items(), (0.5, 10)):
        other = deepcopy(start)
        (row,) = trained(other, lrs=[0.01], batch_size=12, **{f"{part}_lr_factor": factor})
        assert row["lr"] == 0.01
        assert any(key.startswith(prefix) for key, _ in start.named_parameters())
        for key, value in start.named_parameters():
            step, same = other.get_parameter(key) - value, plain.get_parameter(key) - value
            scaled = same * (factor if key.startswith(prefix) else 1)
            torch.testing.assert_close(step, scaled, atol=1e-6, rtol=1e-4)


def test_what_is_frozen_does_not_learn_and_the_rest_does():
    model = built()
    first = model.network[0].requires_grad_(False)
    before = {key: value.clone() for key, value in model.named_parameters()}
    trained(model, lrs=[0.01], optimiser=SGD | {"weight_decay": 0.1})
    still = {key for key, value in model.named_parameters() if torch.equal(value, before[key])}
    assert {f"network.0.{key}" for key, _ in first.named_parameters()} == still


def test_a_group_of_its_own_does_not_change_how_state_is_numbered():
    progress = Progress.begin(built(), ADAM, bottleneck_lr_factor=2, head_lr_factor=3)
    sum(p.sum() for p in progress.model.parameters()).backward()
    progress.optimiser.step()
    tensors = progress.tensors()
    for number, parameter in enumerate(progress.model.parameters()):
        assert tensors[f"optimiser.{number}.exp_avg"].shape == parameter.shape


def test_accuracy_is_the_share_of_images_right_while_training():
    model = built(LN)
    images, labels = samples()
    logits = deepcopy(model).train()
    logits = logits.head.logits(logits.normalization(logits.network(logits.prepare(images))))
    expected = (logits.argmax(dim=1) == labels).double().mean().item()
    assert trained(model, batch_size=12)[0]["accuracy"] == pytest.approx(expected, abs=1e-12)


def test_every_row_tells_the_epoch_and_the_alpha_and_lr_that_were_passed():
    alphas, lrs, model, rows, set_alphas = [16.0, 4.0, 2.0], [0.1, 0.01, 0.02], built(), [], []

    def log(row):
        rows.append(row)
        set_alphas.append(model.head.alpha.item())

    assert trained(model, alphas=alphas, lrs=lrs, log=log) == rows
    assert [row["epoch"] for row in rows] == [0, 1, 2]
    assert [row["alpha"] for row in rows] == alphas == set_alphas
    assert [row["temperature"] for row in rows] == [1 / 16, 1 / 4, 1 / 2]
    assert [row["lr"] for row in rows] == lrs
    with pytest.raises(ValueError, match="zip"):
        trained(built(), alphas=[4.0], lrs=[0.1, 0.1])


def orders(model, epochs=2, **changes):
    """The images of each epoch in the order in which the network saw them; image i is all i."""
    numbers, seen = torch.arange(13), []

    def see(module, inputs):
        seen.extend((inputs[0][:, 0, 3, 3] * 127.5 + 127.5).round().int().tolist())

    model.network.register_forward_pre_hook(see)
    images = numbers.to(torch.uint8)[:, None, None, None].expand_bases(13, 6, 6, 1)
    settings = {"alphas": [4.0] * epochs, "lrs": [0.01] * epochs} | changes
    trained(model, (images, numbers % 3), **settings)
    return [seen[start : start + 13] for start in range(0, len(seen), 13)]


def test_an_epoch_is_every_image_once_in_an_order_of_seed_and_epoch_only():
    expected = orders(built(BN), epochs=3)
    assert all(sorted(order) == list(range(13)) for order in expected)
    assert expected[0] != expected[1]
    assert orders(built(SM, seed=5), epochs=2, alphas=[1.0, 2.0], lrs=[0.1, 0.2]) == expected[:2]
    assert orders(built(BN), epochs=3, batch_size=5) == expected
    assert orders(built(BN), epochs=3, seed=1) != expected
    unmoved = {**AFFINE, "degrees": 0, "scale": 0, "shear": 0, "shift": 0}
    assert orders(built(augment=[unmoved]), epochs=3) == expected


def test_a_single_sample_left_over_joins_the_batch_before():
    cases = {(12, 4): [4, 4, 4], (14, 4): [4, 4, 4, 2], (13, 4): [4, 4, 5], (1, 4): [1]}
    for (total, size), sizes in (cases | {(5, 4): [5]}).items():
        order = torch.randperm(total, generator=torch.Generator().manual_seed(0))
        pieces = batches(order, size)
        assert [len(piece) for piece in pieces] == sizes
        assert torch.equal(torch.cat(pieces), order)


def test_the_seed_alone_decides_on_weights_and_history_to_the_last_bit():
    found = []
    for seed, elsewhere in ((3, 0), (3, 99), (4, 0)):
        model = built(BN, augment=[AFFINE])
        torch.manual_seed(elsewhere)  # the global generator has no part in it
        found.append((trained(model, alphas=[8.0, 2.0], lrs=[0.1, 0.01], seed=seed), model))
    (rows, first), (same, second), (others, third) = found
    assert rows == same != others
    for key, value in first.state_dict().items():
        assert torch.equal(value, second.state_dict()[key]), key
    assert not torch.equal(first.head.weight, third.head.weight)


def test_a_loss_that_is_not_finite_names_seed_epoch_alpha_and_lr():
    rows = []
    with pytest.raises(FloatingPointError) as caught:
        trained(built(SM), alphas=[2.0, 3.5, 2.0], lrs=[0.01, 1e30, 0.01], seed=8, log=rows.append)
    for told in ("seed 8", "step 1 of epoch 1", "'alpha': 3.5", "'lr': 1e+30", "smaller lr"):
        assert told in str(caught.value)
    assert [row["epoch"] for row in rows] == [0]


def test_every_so_many_epochs_and_the_last_are_watched_and_watching_changes_no_training():
    images, labels = samples()
    long, weights = {"alphas": [4.0] * 5, "lrs": [0.01] * 5}, []
    for every, watched in ((1, [0, 1, 2, 3, 4]), (2, [1, 3, 4]), (5, [4]), (9, [4])):
        model = built()

        def watch(model=model):
            return {"seen": model.eval()(images).sum().item()}

        history = trained(model, (images, labels), **long, watch_every=every, watch=watch)
        assert [row["epoch"] for row in history if "seen" in row] == watched
        weights.append(model.head.weight)
    assert all(torch.equal(weights[0], each) for each in weights)


def put_away(progress):
    """All that a checkpoint holds, so that what is trained on cannot change it."""
    tensors = {name: value.clone().contiguous() for name, value in progress.tensors().items()}
    return tensors, deepcopy(progress.history), progress.step


@pytest.mark.parametrize(("name", "optimiser"), [("sm", SGD), ("ln", ADAM), ("bn", ADAM_TF)])
def test_going_on_from_any_step_gives_the_same_weights_and_history_bit_for_bit(name, optimiser):
    settings = {"alphas": [8.0, 2.0, 1.0], "lrs": [0.1, 0.01, 0.02], "optimiser": optimiser}
    settings |= {"bottleneck_lr_factor": 2, "head_lr_factor": 3}
    model, stops = built(METHODS[name], augment=[AFFINE]), []
    history = trained(model, **settings, keep=lambda p: stops.append(put_away(p)))
    assert len(stops) == 3 * (3 + 1)  # after each step and each epoch
    for number, stop in enumerate(stops, start=1):
        other, rows, kept = built(METHODS[name], seed=1, augment=[AFFINE]), [], []
        options = settings | {"start": stop, "log": rows.append, "keep": kept.append}
        assert trained(other, **options) == history == rows
        assert len(kept) == len(stops) - number  # of what is done, nothing again
        for key, value in model.state_dict().items():
            assert torch.equal(other.state_dict()[key], value), key


def test_bfloat16_computes_the_network_and_keeps_weights_and_loss_in_float32():
    model, seen = built(), []
    model.network.register_forward_hook(lambda module, inputs, output: seen.append(output.dtype))
    history = trained(model, precision="bfloat16", batch_size=12)
    expected = trained(built(), precision="float32", batch_size=12)
    assert set(seen) == {torch.bfloat16}
    assert {value.dtype for value in model.parameters()} == {torch.float32}
    assert history[0]["loss"] != expected[0]["loss"]
    assert history[0]["loss"] == pytest.approx(expected[0]["loss"], rel=0.02)
