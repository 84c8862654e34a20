"""Laws of losses: those of MONAI, one number a case, special cases, class weights."""

import pickle

import pytest
import torch
import torch.nn.functional as F
from monai.losses import DiceCELoss, DiceLoss, FocalLoss, TverskyLoss
from torch.func import functional_call, grad, vmap

from fedlab.learning.losses import LOSSES, Loss, balanced

OF_CLASSES = [name for name in LOSSES if not Loss(name).numbers_only]
IMAGES = {"2D": (6, 7), "3D": (4, 5, 3)}
SIMILAR = {"rtol": 0, "atol": 1e-6}
BACKGROUND = {"include_background": False, "softmax": True, "to_onehot_y": True}
MONAI = {
    "dice": DiceLoss(**BACKGROUND),
    "dice_ce": DiceCELoss(**BACKGROUND),
    "tversky": TverskyLoss(**BACKGROUND, alpha=0.3, beta=0.7, smooth_nr=5e-6, smooth_dr=5e-6),
    "tversky(0.9, 0.2)": TverskyLoss(**BACKGROUND, alpha=0.9, beta=0.2, smooth_nr=5e-6, smooth_dr=5e-6),
    "focal": FocalLoss(to_onehot_y=True, use_softmax=True, gamma=2),
}


def sample(kind, image=(6, 7), cases=3, seed=0):
    """(logits, targets) in float64: classes, one class against the rest, or labels that overlap."""
    rng = torch.Generator().manual_seed(seed)
    outputs = 1 if kind == "single" else 4
    logits = torch.randn(cases, outputs, *image, generator=rng, dtype=torch.float64)
    shape = logits.shape if kind == "overlapping" else (cases, *image)
    return logits, torch.randint(0, 4 if kind == "classes" else 2, shape, generator=rng)


@pytest.mark.parametrize("image", IMAGES.values(), ids=IMAGES)
@pytest.mark.parametrize("name", MONAI)
def test_a_loss_is_that_of_monai_for_each_case(name, image):
    logits, targets = sample("classes", image)
    targets[0] = 0  # a case without structures
    each = [MONAI[name](logits[i : i + 1], targets[i : i + 1, None]) for i in range(len(logits))]
    scale = 4 if name == "focal" else 1  # MONAI's mean is also over the classes
    torch.testing.assert_close(
        Loss(name)(logits, targets, reduction="none"), torch.stack(each).double() * scale, **SIMILAR
    )


@pytest.mark.parametrize("kind", ["single", "overlapping"])
def test_a_loss_of_sigmoids_is_that_of_monai(kind):
    logits, targets = sample(kind)
    binary = targets if kind == "overlapping" else targets[:, None]
    for name, theirs in (("dice", DiceLoss(sigmoid=True)), ("focal", FocalLoss(gamma=2))):
        torch.testing.assert_close(Loss(name)(logits, targets), theirs(logits, binary).double(), **SIMILAR)
    expected = DiceLoss(sigmoid=True)(logits, binary) + F.binary_cross_entropy_with_logits(logits, binary.double())
    torch.testing.assert_close(Loss("dice_ce")(logits, targets), expected, **SIMILAR)


@pytest.mark.parametrize("kind", ["classes", "single", "overlapping"])
@pytest.mark.parametrize("weighted", [False, True])
def test_special_cases(kind, weighted):
    for image in [*IMAGES.values(), *[()] * (not weighted)]:
        logits, targets = sample(kind, image)
        weights = tuple(range(1, 3 if kind == "single" else 5)) if weighted else None
        entropy = Loss("cross_entropy", weights)(logits, targets)
        torch.testing.assert_close(Loss("focal(gamma=0)", weights)(logits, targets), entropy)
        if image:
            dice = Loss("dice", weights)(logits, targets)
            torch.testing.assert_close(Loss("tversky(0.5, 0.5)", weights)(logits, targets), dice)
            torch.testing.assert_close(Loss("dice_ce", weights)(logits, targets), dice + entropy)


@pytest.mark.parametrize(
    ("kind", "name"),
    [
        (kind, name)
        for kind in ("classes", "single", "overlapping")
        for name in OF_CLASSES
        if name != "ordinal" or kind == "classes"
    ],
)
def test_the_gradient_of_a_batch_is_the_mean_of_its_cases_and_vmap_gives_the_same(kind, name):
    model = torch.nn.Conv2d(2, 1 if kind == "single" else 4, 3, padding=1).double()
    weights = dict(model.named_parameters())
    x = torch.randn(3, 2, 6, 7, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    y = sample(kind)[1]
    y[0] = 0
    loss = Loss(name, (1.0, 3.0) if kind == "single" else (0.5, 1.0, 2.0, 3.0))

    def of(weights, x, y):
        return loss(functional_call(model, weights, (x,)), y)

    def together(split):
        """The mean of the gradients of the parts."""
        parts = [grad(of)(weights, each, labels) for each, labels in zip(x.split(split), y.split(split), strict=True)]
        return {key: torch.stack([part[key] for part in parts]).mean(0) for key in weights}

    whole, cases = together(3), together(1)
    batched = vmap(grad(of), (None, 0, 0))(weights, x[:, None], y[:, None])
    for key in weights:
        torch.testing.assert_close(cases[key], whole[key])
        torch.testing.assert_close(batched[key].mean(0), whole[key])


def test_class_weights_of_cross_entropy_count_a_voxel_by_its_class_and_of_dice_average_structures():
    logits, targets = sample("classes")
    weights = (0.5, 1.0, 2.0, 3.0)
    each = F.cross_entropy(logits, targets, weight=torch.tensor(weights).double(), reduction="none").flatten(1).mean(1)
    torch.testing.assert_close(Loss("cross_entropy", weights)(logits, targets, reduction="none"), each)
    theirs = DiceLoss(**BACKGROUND, weight=[0.5, 1.0, 1.5])(logits, targets[:, None])  # the mean weight is 1
    torch.testing.assert_close(Loss("dice", weights)(logits, targets), theirs, **SIMILAR)
    logits, targets = sample("single", ())
    positive = F.binary_cross_entropy_with_logits(logits[:, 0], targets.double(), pos_weight=torch.tensor(3.0))
    torch.testing.assert_close(Loss("cross_entropy", (1.0, 3.0))(logits, targets), positive)
    labels = torch.tensor([0, 0, 0, 1])
    weights = torch.tensor(balanced([3, 1]))
    assert float(weights[labels].mean()) == 1
    assert float(weights[labels][labels == 0].sum()) == float(weights[labels][labels == 1].sum())


@pytest.mark.parametrize("name", OF_CLASSES)
def test_half_precision_is_computed_in_float32(name):
    logits, targets = sample("classes", (32, 32))
    with torch.autocast("cpu", torch.bfloat16):
        found = Loss(name)(logits.bfloat16(), targets)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, Loss(name)(logits.bfloat16().float(), targets), rtol=0, atol=0)


@pytest.mark.parametrize("gamma", [0.5, 2.0])
def test_a_certain_prediction_has_a_finite_gradient(gamma):
    logits = torch.tensor([[200.0, -200.0]], requires_grad=True)
    Loss(f"focal(gamma={gamma})")(logits, torch.tensor([0])).backward()
    assert logits.grad.isfinite().all()


@pytest.mark.parametrize("weights", [None, (0.5, 1.0, 2.0, 3.0)])
def test_the_ordinal_loss_is_the_squared_distance_of_cumulative_distributions(weights):
    logits, grades = sample("classes", (), cases=6)
    p = logits.softmax(1).numpy()
    expected = [
        sum((sum(p[i, : k + 1]) - (int(grade) <= k)) ** 2 for k in range(4))
        * (1 if weights is None else weights[grade])
        for i, grade in enumerate(grades)
    ]
    found = Loss("ordinal", weights)(logits, grades, reduction="none")
    torch.testing.assert_close(found, torch.tensor(expected))


def test_grades_far_from_the_true_one_cost_more_and_their_order_may_be_turned():
    sure = 60 * torch.eye(5, dtype=torch.float64)
    costs = torch.stack([Loss("ordinal")(sure, torch.full((5,), true), reduction="none") for true in range(5)])
    grades = torch.arange(5.0, dtype=torch.float64)
    torch.testing.assert_close(costs, (grades[:, None] - grades).abs(), rtol=0, atol=1e-9)
    logits, labels = sample("classes", (), cases=6)
    turned = Loss("ordinal")(logits.flip(1), 3 - labels)
    torch.testing.assert_close(turned, Loss("ordinal")(logits, labels))
    two = Loss("ordinal")(logits[:, :2], labels % 2, reduction="none")
    torch.testing.assert_close(two, (1 - logits[:, :2].softmax(1).gather(1, labels[:, None] % 2)[:, 0]) ** 2)


def test_what_does_not_fit_is_refused():
    logits, targets = sample("classes")
    with pytest.raises(ValueError, match="did you mean 'focal'"):
        Loss("focl")
    with pytest.raises(ValueError, match="alpha"):
        Loss("tversky(alpha=-1)")
    with pytest.raises(ValueError, match="4 outputs: give 4"):
        Loss("dice", (1.0, 2.0))(logits, targets)
    with pytest.raises(ValueError, match="at least 0"):
        Loss("dice", (1.0, -2.0))
    assert pickle.loads(pickle.dumps(Loss("dice"))) == Loss("dice")
    LOSSES.add(lambda logits, targets, weights: logits.mean(), name="own")
    try:
        with pytest.raises(ValueError, match="one number for each case"):
            Loss("own")(logits, targets)
    finally:
        LOSSES.remove("own")
