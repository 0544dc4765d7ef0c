from copy import deepcopy
from itertools import product

import pytest
import torch
from recipes import AFFINE, BATCH_NORM, SGD, make_recipe

from heated.common import progress
from heated.data.packed_dataset import InMemoryImages
from heated.data.samplers import split_batches
from heated.losses.heated_softmax import HeatedSoftmax
from heated.models.backbones import bottleneck_name
from heated.models.embedding_model import Architecture, ModelWithLoss
from heated.training.loop import epoch_seed, train
from heated.training.train_state import TrainState

METHODS = {"sm": {"name": "none"}, "ln": {"name": "l2"}, "bn": BATCH_NORM}
ADAM_TF = {"name": "adam_tf", "eps": 0.01}
ADAM = {"name": "adam", "eps": 0.01, "weight_decay": 0.0}


def make_model(method="bn", seed=0, augment=()):
    backbone = {"name": "conv4", "width": 16}
    recipe = make_recipe(normalize=METHODS[method], backbone=backbone, augment=[*augment])
    torch.manual_seed(seed)
    return ModelWithLoss(Architecture.of(vars(recipe), image_shape=(6, 6, 1), num_classes=3))


def samples(size=12):
    generator = torch.Generator().manual_seed(7)
    images = torch.randint(256, (size, 6, 6, 1), generator=generator, dtype=torch.uint8)
    return images, torch.arange(size) % 3


def fit(model, data=None, *, seed=0, start=None, hooks=None, **changes):
    """Train a model from the start, or from a checkpoint; return its history."""
    images, labels = samples() if data is None else data
    recipe = make_recipe(**{"alphas": [4.0], "lrs": [0.1], "batch_size": 4} | changes)
    state = TrainState.create(model, recipe, seed)
    if start is not None:
        state.restore(start)
    train(state, InMemoryImages(images), labels, recipe, **hooks or {})
    return state.history


def logits_by_hand(name, head, raw, alpha):
    """Eq. 1 with the bias outside alpha, for the paper's three normalizations."""
    weight = head["weight"]
    if name == "ln":
        raw = raw / raw.square().sum(dim=1, keepdim=True).sqrt()
    if name == "bn":
        centered = raw - raw.mean(dim=0)
        standard = centered / (centered.square().mean(dim=0) + 1e-3).sqrt()
        raw = (standard + head["shift"]) / raw.shape[1] ** 0.5
    if name != "sm":
        weight = weight / weight.square().sum(dim=1, keepdim=True).sqrt()
    return alpha * raw @ weight.T + head["bias"]


def reference(name, model, *, alphas, lrs, batch_size, weight_decay=0.0):
    """Train with momentum 0.9 by an update written by hand; return the losses."""
    images, labels = samples()
    parameters = dict(model.named_parameters())
    prefixes = ("head.", "normalization.")
    head = {k.partition(".")[2]: v for k, v in parameters.items() if k.startswith(prefixes)}
    velocities = {key: torch.zeros_like(value) for key, value in parameters.items()}
    model.train()
    losses = []
    for epoch, (alpha, lr) in enumerate(zip(alphas, lrs, strict=True)):
        generator = torch.Generator().manual_seed(epoch_seed(0, epoch))
        total = 0.0
        for batch in torch.randperm(len(labels), generator=generator).split(batch_size):
            pixels = (images[batch].permute(0, 3, 1, 2) / 255 - 0.5) / 0.5
            logits = logits_by_hand(name, head, model.network(pixels), alpha)
            correct = logits[torch.arange(len(batch)), labels[batch]]
            loss = (logits.exp().sum(dim=1).log() - correct).mean()
            gradients = torch.autograd.grad(loss, list(parameters.values()))
            with torch.no_grad():
                for (key, value), gradient in zip(parameters.items(), gradients, strict=True):
                    velocities[key] = 0.9 * velocities[key] + gradient + weight_decay * value
                    value -= lr * velocities[key]
            total += loss.item() * len(batch)
        losses.append(total / len(labels))
    return losses


@pytest.mark.parametrize("name", METHODS)
def test_steps_equal_those_written_by_hand(name):
    one_step = {"alphas": [4.0], "lrs": [0.1], "batch_size": 12}
    more = {"alphas": [4.0, 1.0], "lrs": [0.05, 0.005], "batch_size": 6, "weight_decay": 0.1}
    for options, tolerance in ((one_step, 1e-6), (more, 1e-5)):
        model = make_model(name)
        expected, start = deepcopy(model), deepcopy(model)
        losses = reference(name, expected, **options)
        optimizer = SGD | {"weight_decay": options.pop("weight_decay", 0.0)}
        history = fit(model, **options, optimizer=optimizer)
        assert [row["loss"] for row in history] == pytest.approx(losses, abs=tolerance)
        for key, value in expected.named_parameters():
            torch.testing.assert_close(model.get_parameter(key), value, atol=tolerance, rtol=0)
        assert not torch.allclose(model.head.weight, start.head.weight, atol=1e-3)


@pytest.mark.parametrize("optimizer", [SGD, ADAM, ADAM_TF], ids=lambda each: each["name"])
@pytest.mark.parametrize("name", METHODS)
def test_lr_multipliers_scale_the_steps_of_bottleneck_and_classifier(name, optimizer):
    start = make_model(name)
    settings = {"lrs": [0.01], "batch_size": 12, "optimizer": optimizer}
    plain = deepcopy(start)
    fit(plain, **settings)
    below = f"network.{bottleneck_name(start.network)}."
    prefixes = {"bottleneck": below, "classifier": ("head.", "normalization.")}
    for (part, prefix), factor in product(prefixes.items(), (0.5, 10)):
        other = deepcopy(start)
        (row,) = fit(other, **settings, **{f"{part}_lr_mult": factor})
        assert row["lr"] == 0.01
        assert any(key.startswith(prefix) for key, _ in start.named_parameters())
        for key, value in start.named_parameters():
            step, same = other.get_parameter(key) - value, plain.get_parameter(key) - value
            scaled = same * (factor if key.startswith(prefix) else 1)
            torch.testing.assert_close(step, scaled, atol=1e-6, rtol=1e-4)


def test_frozen_parameters_stay_and_all_others_change():
    model = make_model()
    first = model.network[0].requires_grad_(False)
    before = {key: value.clone() for key, value in model.named_parameters()}
    fit(model, lrs=[0.01], optimizer=SGD | {"weight_decay": 0.1})
    equal = {key for key, value in model.named_parameters() if torch.equal(value, before[key])}
    assert {f"network.0.{key}" for key, _ in first.named_parameters()} == equal


def test_accuracy_is_the_share_of_correct_predictions_while_training():
    model = make_model("ln")
    images, labels = samples()
    before = deepcopy(model).train()
    logits = before.head.logits(before.normalization(before.network(before.prepare(images))))
    expected = (logits.argmax(dim=1) == labels).double().mean().item()
    assert fit(model, batch_size=12)[0]["accuracy"] == pytest.approx(expected, abs=1e-12)


def test_every_row_has_the_epochs_alpha_temperature_and_lr():
    alphas, lrs, model, steps = [16.0, 4.0, 2.0], [0.1, 0.01, 0.02], make_model(), []

    def on_step_end(state):
        steps.append((len(state.history), state.step, model.head.alpha))

    rows = fit(model, alphas=alphas, lrs=lrs, hooks={"on_step_end": on_step_end})
    assert [row["epoch"] for row in rows] == [0, 1, 2]
    assert [row["alpha"] for row in rows] == alphas
    assert [row["temperature"] for row in rows] == [1 / 16, 1 / 4, 1 / 2]
    assert [row["lr"] for row in rows] == lrs
    order = [(0, 1), (0, 2), (0, 3), (1, 0)]  # finished epochs, steps of the next
    assert steps == [(e + n, step, alphas[e]) for e in range(3) for n, step in order]
    with pytest.raises(ValueError, match="zip"):
        fit(make_model(), alphas=[4.0], lrs=[0.1, 0.1])


def image_orders(model, epochs=2, **changes):
    """The images of each epoch in the order in which the network saw them; image i is all i."""
    numbers, seen = torch.arange(13), []

    def see(module, inputs):
        seen.extend((inputs[0][:, 0, 3, 3] * 127.5 + 127.5).round().int().tolist())

    model.network.register_forward_pre_hook(see)
    images = numbers.to(torch.uint8)[:, None, None, None].expand(13, 6, 6, 1)
    settings = {"alphas": [4.0] * epochs, "lrs": [0.01] * epochs} | changes
    fit(model, (images, numbers % 3), **settings)
    return [seen[start : start + 13] for start in range(0, len(seen), 13)]


def test_an_epoch_has_every_image_once_in_an_order_that_depends_on_seed_and_epoch_only():
    expected = image_orders(make_model(), epochs=3)
    assert all(sorted(order) == list(range(13)) for order in expected)
    assert expected[0] != expected[1]
    other = image_orders(make_model("sm", seed=5), alphas=[1.0, 2.0], lrs=[0.1, 0.2])
    assert other == expected[:2]
    assert image_orders(make_model(), epochs=3, batch_size=5) == expected
    assert image_orders(make_model(), epochs=3, seed=1) != expected
    unchanged = {**AFFINE, "degrees": 0, "scale": 0, "shear": 0, "translate": 0}
    assert image_orders(make_model(augment=[unchanged]), epochs=3) == expected


def test_a_single_remaining_sample_joins_the_previous_batch():
    cases = {12: [4, 4, 4], 14: [4, 4, 4, 2], 13: [4, 4, 5], 1: [1], 5: [5]}
    for total, sizes in cases.items():
        pieces = split_batches(torch.arange(total), 4)
        assert [len(piece) for piece in pieces] == sizes
        assert torch.cat(pieces).tolist() == [*range(total)]


def test_the_error_for_a_loss_that_is_not_finite_names_seed_epoch_alpha_and_lr():
    epochs = []
    hooks = {"on_step_end": lambda state: epochs.append(len(state.history))}
    settings = {"alphas": [2.0, 3.5, 2.0], "lrs": [0.01, 1e30, 0.01], "seed": 8}
    with pytest.raises(FloatingPointError) as caught:
        fit(make_model("sm"), **settings, hooks=hooks)
    parts = ("seed 8", "step 1", "'epoch': 1", "'alpha': 3.5", "'lr': 1e+30", "smaller lr")
    assert all(part in str(caught.value) for part in parts)
    assert max(epochs) == 1


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_measurement_that_is_not_finite_ends_the_training_with_its_name(value):
    hooks = {"monitor_fn": lambda: {"recall_at_1": value}}
    with pytest.raises(FloatingPointError, match=r"seed 3: got \['recall_at_1'\] of .*'epoch': 0"):
        fit(make_model(), seed=3, hooks=hooks)


CHANGES = {  # by the alphas of each epoch, the epochs in which unseen classes are measured
    (4.0, 4.0, 4.0, 4.0, 4.0, 4.0): [2, 5],
    (8.0, 8.0, 8.0, 8.0, 2.0, 2.0): [2, 3, 4, 5],
    (8.0, 2.0, 2.0, 2.0, 2.0, 2.0): [0, 1, 2, 5],
    (8.0, 7.0, 6.0, 5.0, 4.0, 3.0): [0, 1, 2, 4, 5],
    (8.0, None, None, None, None, None): [2, 5],
}


@pytest.mark.parametrize("alphas", CHANGES)
def test_unseen_classes_are_measured_before_and_after_a_change_of_alpha(alphas):
    weights = []
    for hooks in ({}, {"monitor_fn": lambda: {"seen": 1.0}}):
        model = make_model()
        history = fit(model, alphas=alphas, lrs=[0.01] * 6, eval_every=3, hooks=hooks)
        weights.append(model.head.weight)
    assert [row["epoch"] for row in history if "seen" in row] == CHANGES[alphas]
    assert torch.equal(*weights)
    last = make_recipe(alphas=alphas, lrs=[0.01] * 6, eval_every=6).per_epoch_values()
    assert [is_evaluated for *_, is_evaluated in last] == [False] * 5 + [True]


def test_unseen_classes_are_evaluated_at_the_interval_without_effect_on_training():
    images, labels = samples()
    long, weights = {"alphas": [4.0] * 5, "lrs": [0.01] * 5}, []
    for interval, expected in ((1, [0, 1, 2, 3, 4]), (2, [1, 3, 4]), (5, [4]), (9, [4])):
        model = make_model()
        hooks = {"monitor_fn": lambda m=model: {"seen": m.eval()(images).sum().item()}}
        history = fit(model, (images, labels), **long, eval_every=interval, hooks=hooks)
        assert [row["epoch"] for row in history if "seen" in row] == expected
        weights.append(model.head.weight)
    assert all(torch.equal(weights[0], each) for each in weights)


@pytest.mark.parametrize(("name", "optimizer"), [("sm", SGD), ("ln", ADAM), ("bn", ADAM_TF)])
def test_resuming_after_any_step_gives_bit_identical_weights_and_history(name, optimizer):
    settings = {"alphas": [8.0, 2.0, 1.0], "lrs": [0.1, 0.01, 0.02], "optimizer": optimizer}
    settings |= {"bottleneck_lr_mult": 2, "classifier_lr_mult": 3}
    model, stops = make_model(name, augment=[AFFINE]), []
    hooks = {"on_step_end": lambda state: stops.append(deepcopy(state.to_checkpoint()))}
    history = fit(model, **settings, hooks=hooks)
    assert len(stops) == 3 * (3 + 1)  # after each step and each epoch
    for number, stop in enumerate(stops, start=1):
        other, calls = make_model(name, seed=1, augment=[AFFINE]), []
        hooks = {"on_step_end": calls.append}
        assert fit(other, **settings, start=deepcopy(stop), hooks=hooks) == history
        assert len(calls) == len(stops) - number  # no step is repeated
        for key, value in model.state_dict().items():
            assert torch.equal(other.state_dict()[key], value), key


@pytest.mark.parametrize("adaptation", ["learned", "adacos"])
def test_resuming_within_the_first_epoch_keeps_an_adapted_alpha(adaptation):
    settings = {"alphas": [8.0, None], "lrs": [0.1, 0.1], "adaptation": adaptation}
    settings |= {"normalize": METHODS["ln"], "bias": "none"}

    def adaptive_model():
        model = make_model("ln")
        torch.manual_seed(0)
        options = {"normalize": "none", "unit_weights": True, "bias": "none"}
        model.head = HeatedSoftmax(3, 4, adaptation=adaptation, **options)
        return model

    model, stops = adaptive_model(), []
    hooks = {"on_step_end": lambda state: stops.append(deepcopy(state.to_checkpoint()))}
    history = fit(model, **settings, hooks=hooks)
    assert history[0]["alpha"] != 8
    for stop in stops:
        assert fit(adaptive_model(), **settings, start=stop) == history


def test_bfloat16_applies_to_the_network_while_weights_and_loss_are_float32():
    model, seen = make_model(), []
    model.network.register_forward_hook(lambda module, inputs, output: seen.append(output.dtype))
    history = fit(model, precision="bfloat16", batch_size=12)
    expected = fit(make_model(), precision="float32", batch_size=12)
    assert set(seen) == {torch.bfloat16}
    assert {value.dtype for value in model.parameters()} == {torch.float32}
    assert history[0]["loss"] != expected[0]["loss"]
    assert history[0]["loss"] == pytest.approx(expected[0]["loss"], rel=0.02)


def test_a_log_shows_loss_and_alpha_of_each_epoch(monkeypatch, capsys):
    monkeypatch.setattr(progress, "INTERVAL_S", 0)
    history = fit(make_model(), alphas=[4.0, 2.0, 2.0], lrs=[0.1, 0.1, 0.1])
    shown = capsys.readouterr().err
    for epoch, row in enumerate(history, 1):
        assert f"loss={row['loss']:.3g}, alpha={row['alpha']:.3g}]" in shown, epoch
    assert "2/3 [" in shown
