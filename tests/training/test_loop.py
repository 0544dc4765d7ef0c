from copy import deepcopy

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
def test_one_step_equals_its_gradient_written_out_by_hand(name):
    model = built(METHODS[name])
    expected = deepcopy(model)
    losses = reference(name, expected, alphas=[4.0], lrs=[0.1], batch_size=12)
    history = trained(model, alphas=[4.0], lrs=[0.1], batch_size=12)
    assert history[0]["loss"] == pytest.approx(losses[0], abs=1e-6)
    for key, value in expected.named_parameters():
        torch.testing.assert_close(model.get_parameter(key), value, atol=1e-6, rtol=0)


@pytest.mark.parametrize("name", METHODS)
def test_steps_with_momentum_and_changing_alpha_and_lr_equal_those_written_out(name):
    model = built(METHODS[name])
    expected, start = deepcopy(model), deepcopy(model)
    schedules = {"alphas": [4.0, 1.0], "lrs": [0.05, 0.005]}
    losses = reference(name, expected, **schedules, batch_size=6, weight_decay=0.1)
    history = trained(
        model,
        **schedules,
        batch_size=6,
        optimiser={"name": "sgd", "momentum": 0.9, "weight_decay": 0.1},
    )
    assert [row["loss"] for row in history] == pytest.approx(losses, abs=1e-5)
    for key, value in expected.named_parameters():
        torch.testing.assert_close(model.get_parameter(key), value, atol=1e-5, rtol=0)
    assert not torch.allclose(model.head.weight, start.head.weight, atol=1e-3)


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("factor", [0.5, 10])
@pytest.mark.parametrize("part", ["bottleneck", "head"])
def test_a_parts_step_is_the_networks_times_its_factor(name, factor, part):
    start = built(METHODS[name])
    prefix = {
        "bottleneck": f"network.{bottleneck(start.network)}.",
        "head": ("head.", "normalization."),
    }[part]
    plain, other = deepcopy(start), deepcopy(start)
    trained(plain, lrs=[0.01], batch_size=12)
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
    optimiser = {"name": "sgd", "momentum": 0.9, "weight_decay": 0.1}
    trained(model, lrs=[0.01], optimiser=optimiser)
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
    alphas, lrs, model, set_alphas = [16.0, 4.0, 2.0], [0.1, 0.01, 0.02], built(), []
    history = trained(
        model, alphas=alphas, lrs=lrs, log=lambda row: set_alphas.append(model.head.alpha.item())
    )
    assert [row["epoch"] for row in history] == [0, 1, 2]
    assert [row["alpha"] for row in history] == alphas == set_alphas
    assert [row["temperature"] for row in history] == [1 / 16, 1 / 4, 1 / 2]
    assert [row["lr"] for row in history] == lrs


def test_the_log_gets_the_rows_that_are_returned():
    rows = []
    assert trained(built(), alphas=[4.0] * 2, lrs=[0.1] * 2, log=rows.append) == rows


def test_more_lrs_than_alphas_are_refused():
    with pytest.raises(ValueError, match="zip"):
        trained(built(), alphas=[4.0], lrs=[0.1, 0.1])


def orders(model, epochs=2, **changes):
    """The images of each epoch in the order in which the network saw them; image i is all i."""
    numbers, seen = torch.arange(13), []

    def see(module, inputs):
        seen.extend((inputs[0][:, 0, 3, 3] * 127.5 + 127.5).round().int().tolist())

    model.network.register_forward_pre_hook(see)
    images = numbers.to(torch.uint8)[:, None, None, None].expand(13, 6, 6, 1)
    settings = {"alphas": [4.0] * epochs, "lrs": [0.01] * epochs} | changes
    trained(model, (images, numbers % 3), **settings)
    return [seen[start : start + 13] for start in range(0, len(seen), 13)]


def test_every_image_is_seen_once_an_epoch():
    for order in orders(built(), epochs=3):
        assert sorted(order) == list(range(13))


def test_the_order_of_an_epoch_depends_on_seed_and_epoch_only():
    expected = orders(built(BN), epochs=3)
    assert expected[0] != expected[1]
    assert orders(built(SM, seed=5), epochs=2, alphas=[1.0, 2.0], lrs=[0.1, 0.2]) == expected[:2]
    assert orders(built(BN), epochs=3, batch_size=5) == expected
    assert orders(built(BN), epochs=3, seed=1) != expected


def test_augmenting_leaves_the_order_of_an_epoch_alone():
    unmoved = {**AFFINE, "degrees": 0, "scale": 0, "shear": 0, "shift": 0}
    assert orders(built(augment=[unmoved]), epochs=3) == orders(built(), epochs=3)


@pytest.mark.parametrize(
    ("total", "size", "sizes"),
    [(12, 4, [4, 4, 4]), (14, 4, [4, 4, 4, 2]), (13, 4, [4, 4, 5]), (1, 4, [1]), (5, 4, [5])],
)
def test_a_single_sample_left_over_joins_the_batch_before(total, size, sizes):
    order = torch.randperm(total, generator=torch.Generator().manual_seed(0))
    pieces = batches(order, size)
    assert [len(piece) for piece in pieces] == sizes
    assert torch.equal(torch.cat(pieces), order)


def run(seed, model_seed=0):
    model = built(BN, model_seed, augment=[AFFINE])
    history = trained(model, alphas=[8.0, 2.0], lrs=[0.1, 0.01], seed=seed)
    return model.state_dict(), history


def test_the_same_seed_gives_the_same_weights_and_history_bit_for_bit():
    (first, rows), (second, same) = run(3), run(3)
    assert rows == same
    for key, value in first.items():
        assert torch.equal(value, second[key]), key


def test_another_seed_gives_other_weights_and_another_history():
    (first, rows), (second, others) = run(3), run(4)
    assert not torch.equal(first["head.weight"], second["head.weight"])
    assert rows != others


def test_the_global_generator_has_no_part_in_training():
    model, again = built(augment=[AFFINE]), built(augment=[AFFINE])
    trained(model)
    torch.manual_seed(99)
    trained(again)
    assert torch.equal(model.head.weight, again.head.weight)


def test_a_loss_that_is_not_finite_names_seed_epoch_alpha_and_lr():
    rows = []
    with pytest.raises(FloatingPointError) as caught:
        trained(built(SM), alphas=[2.0, 3.5, 2.0], lrs=[0.01, 1e30, 0.01], seed=8, log=rows.append)
    told_of = ("seed 8", "step 1 of epoch 1", "'alpha': 3.5", "'lr': 1e+30", "smaller lr")
    for told in told_of:
        assert told in str(caught.value)
    assert [row["epoch"] for row in rows] == [0]


@pytest.mark.parametrize(
    ("every", "watched"), [(1, [0, 1, 2, 3, 4]), (2, [1, 3, 4]), (5, [4]), (9, [4])]
)
def test_every_so_many_epochs_and_the_last_are_watched(every, watched):
    history = trained(
        built(), alphas=[4.0] * 5, lrs=[0.01] * 5, watch_every=every, watch=lambda: {"seen": 0.5}
    )
    assert [row["epoch"] for row in history if "seen" in row] == watched


def test_watching_in_eval_mode_does_not_change_training():
    model, watched = built(), built()
    data = samples()
    trained(model, data, alphas=[4.0] * 2, lrs=[0.1] * 2)
    trained(
        watched,
        data,
        alphas=[4.0] * 2,
        lrs=[0.1] * 2,
        watch=lambda: {"sum": watched.eval()(data[0]).sum().item()},
    )
    assert torch.equal(model.head.weight, watched.head.weight)


def put_away(progress):
    """All that a checkpoint holds, so that what is trained on cannot change it."""
    tensors = {name: value.clone().contiguous() for name, value in progress.tensors().items()}
    return tensors, deepcopy(progress.history), progress.step


@pytest.mark.parametrize("optimiser", [SGD, ADAM, ADAM_TF], ids=lambda choice: choice["name"])
@pytest.mark.parametrize("name", METHODS)
def test_going_on_from_any_step_gives_the_same_weights_and_history_bit_for_bit(name, optimiser):
    settings = {"alphas": [8.0, 2.0, 1.0], "lrs": [0.1, 0.01, 0.02], "optimiser": optimiser}
    settings |= {"bottleneck_lr_factor": 2, "head_lr_factor": 3}
    model, stops = built(METHODS[name], augment=[AFFINE]), []
    history = trained(model, **settings, keep=lambda p: stops.append(put_away(p)))
    assert len(stops) == 3 * (3 + 1)  # after each step and each epoch
    for stop in stops:
        other, rows = built(METHODS[name], seed=1, augment=[AFFINE]), []
        assert trained(other, **settings, start=stop, log=rows.append) == history == rows
        for key, value in model.state_dict().items():
            assert torch.equal(other.state_dict()[key], value), key


def test_a_training_that_is_done_is_not_trained_on():
    model, stops = built(), []
    history = trained(model, keep=lambda progress: stops.append(put_away(progress)))
    other = built(seed=1)
    assert trained(other, start=stops[-1], watch=lambda: pytest.fail("trained")) == history
    assert torch.equal(other.head.weight, model.head.weight)


def test_bfloat16_computes_the_network_and_keeps_weights_and_loss_in_float32():
    model, seen = built(), []
    model.network.register_forward_hook(lambda module, inputs, output: seen.append(output.dtype))
    history = trained(model, precision="bfloat16", batch_size=12)
    expected = trained(built(), precision="float32", batch_size=12)
    assert set(seen) == {torch.bfloat16}
    assert {value.dtype for value in model.parameters()} == {torch.float32}
    assert history[0]["loss"] != expected[0]["loss"]
    assert history[0]["loss"] == pytest.approx(expected[0]["loss"], rel=0.02)
