"""Numbers that independent implementations reached on real data, through the public API.

The deterministic federation of PneumoniaMNIST has no randomness at all: every method must land on the same digits. The
rows above the line were published; those below were computed for these tests by an implementation in plain numpy that
shares no line with this one.
"""

import os

import numpy as np
import pytest
import torch
from sklearn.metrics import roc_auc_score

import fedlab

pytestmark = pytest.mark.skipif(not os.environ.get("FEDLAB_MIRROR"), reason="set FEDLAB_MIRROR to the official files")
SLICES = [((0, 50), (0, 950)), ((50, 250), (950, 1750)), ((250, 650), (1750, 2150)), ((650, 1214), (2150, 2350))]
ANCHORS = [  # method, settings, rounds, F on the union, test AUC, test accuracy, norm of (w, b)
    ("centralized", {}, 100, 0.272183891, 0.91087004, 0.81891026, 1.62814947),
    ("fedavg", {}, 100, 0.2884094683, 0.90879904, 0.82051282, 1.46402336),
    ("fedavgm", {}, 100, 0.2240711537, 0.91431076, 0.83493590, 2.8413976),
    ("fedadam", {}, 100, 0.2263814158, 0.91339031, 0.83333333, 2.71305496),
    ("scaffold", {}, 100, 0.2724293952, 0.91073855, 0.81891026, 1.62547107),
    ("cyclic", {}, 25, 0.4072456629, 0.91354372, 0.78525641, 1.52688743),
    # -- below: an independent implementation in numpy
    ("fedavg(weighting='uniform')", {}, 100, 0.283995389403, 0.909390751698, 0.81891026, 1.49066106266),
    ("fedavgm(nesterov=True)", {}, 100, 0.224186547877, 0.914453210607, 0.83493590, 2.83539744609),
    ("fedadagrad", {}, 100, 0.284119444086, 0.908470304624, 0.81891026, 1.52729250685),
    ("fedyogi", {}, 100, 0.226795646223, 0.913346482577, 0.83173077, 2.68987186179),
    ("fedadam(bias_correction=True)", {}, 100, 0.229592554116, 0.9134231865, 0.82692308, 2.56982667517),
    ("fedprox(mu=1.0)", {}, 100, 0.291255491007, 0.90862371247, 0.82051282, 1.4334958578),
    ("scaffold(option=1)", {}, 100, 0.272144473545, 0.910826210826, 0.81891026, 1.62885410679),
    ("scaffold(weighting='uniform')", {}, 100, 0.271478509422, 0.911165899627, 0.83333333, 1.64932958952),
    ("scaffold(option=1, weighting='uniform')", {}, 100, 0.271193701293, 0.911231645847, 0.83333333, 1.65271690921),
    ("fednova", {}, 100, 0.288409468321, 0.908799035722, 0.82051282, 1.4640233635),
    ("feddyn(alpha=0.1)", {}, 100, 0.259499180044, 0.921422309884, 0.84615385, 2.98771747826),
    ("feddyn(alpha=0.1, weighting='cases')", {}, 100, 0.258569382714, 0.921794871795, 0.84775641, 2.96277485781),
    ("fedsam(rho=0.1)", {}, 100, 0.267957131036, 0.906234933158, 0.82692308, 1.82979022224),
    ("qfedavg(q=0.2)", {}, 100, 0.300172286247, 0.907648476879, 0.81891026, 1.32858387367),
    ("qfedavg(q=1)", {}, 100, 0.349404306377, 0.904284461977, 0.81730769, 0.974531887525),
    ("afl(lambda_lr=0.1)", {}, 100, 0.356190987148, 0.907747096209, 0.84935897, 1.02482261425),
    ("pfedme(lam=15, inner=5)", {}, 100, 0.302410170553, 0.907462195924, 0.81410256, 1.32324137448),
    ("ditto(lam=0.1)", {}, 100, 0.288409468321, 0.908799035722, 0.82051282, 1.4640233635),
    ("swarm(merge='median', weighting='cases')", {}, 100, 0.31131978648, 0.904350208196, 0.77083333, 1.46027290408),
    ("gossip('ring')", {}, 100, 0.285368658625, 0.909040105194, 0.81891026, 1.47728857266),
    ("gossip('star')", {}, 100, 0.285653725731, 0.909018189787, 0.81891026, 1.47440606883),
    ("feddyn(alpha=0.1, release='active')", {}, 100, 0.25828361868, 0.920052596976, 0.84935897, 3.01510457403),
    ("afl(lambda_lr=0.1, release='last')", {}, 100, 0.291336944686, 0.911264518957, 0.86057692, 1.57863279087),
    ("afl(lambda_lr=0.1)", {"local_steps": 1}, 100, 0.578833871988, 0.898564540872, 0.83012821, 0.227701663396),
    ("fedavg", {"aggregate": "median"}, 100, 0.274096118289, 0.909938636862, 0.82211538, 1.60688396356),
    ("fedavg", {"aggregate": "krum(f=0)"}, 100, 0.28417432433, 0.912678062678, 0.85897436, 1.71985306742),
    ("fedavg", {"aggregate": "multikrum(f=0, c=2)"}, 100, 0.275633471237, 0.909653736577, 0.82211538, 1.59256171796),
    ("fedavg", {"aggregate": "geomedian"}, 100, 0.311318978548, 0.904350208196, 0.77083333, 1.4602714253),
    ("fedavg", {"aggregate": "clipped(0.05)"}, 100, 0.306604313209, 0.906749945211, 0.80769231, 1.29434204399),
    ("cyclic(order='reversed')", {}, 25, 0.419044544573, 0.899890422967, 0.69711538, 1.53898348097),
    ("cyclic(mitigation='iterations')", {}, 25, 0.408753114862, 0.913434144203, 0.78525641, 1.50524446856),
    ("cyclic(mitigation='rate')", {}, 25, 0.407755934819, 0.913269778654, 0.78525641, 1.50186129983),
    ("cyclic(mitigation='loss')", {}, 25, 0.288300684914, 0.912754766601, 0.85897436, 1.70557367735),
]
PERSONAL = {  # method -> norms of the four personal models
    "ditto(lam=0.1)": [1.04399139792, 1.45708689819, 1.62580026069, 1.54792577118],
    "apfl(alpha=0.5, adaptive=False)": [0.909786050409, 1.16861295961, 1.31825190399, 1.25254103729],
    "apfl(alpha=0.5)": [1.18565348428, 1.46472343091, 1.44404214111, 1.35171281312],
    "pfedme(lam=15, inner=5)": [1.32457227087, 1.32817868374, 1.3318882258, 1.33041587301],
    "local": [0.763149598933, 1.46027290408, 1.71985306742, 1.59768699191],
}


@pytest.fixture(scope="module")
def pneumonia():
    with pytest.warns(UserWarning, match="duplicates"):
        return fedlab.load("pneumoniamnist")


@pytest.fixture(scope="module")
def sites(pneumonia):
    """Case names of each site: negatives and positives of the training set in file order."""
    train = np.flatnonzero(pneumonia.table["split"] == "train")
    negative, positive = (train[pneumonia.labels[train] == label] for label in (0, 1))
    return {
        f"Site {k}": pneumonia.table["case"][np.concatenate([negative[slice(*n)], positive[slice(*p)]])].tolist()
        for k, (n, p) in enumerate(SLICES)
    }


def trained(method: str, rounds: int, pneumonia, sites, folder, **settings) -> fedlab.runs.Run:
    """The run of a method on the deterministic federation."""
    given = {
        "local_steps": 10,
        "batch_size": None,
        "lr": 0.01,
        "weight_decay": 0.01,
        "precision": "float64",
        **settings,
    }
    experiment = fedlab.Experiment(
        dataset="pneumoniamnist", method=method, model="logistic", rounds=rounds, device="cpu", evaluate_every=rounds,
        **given
    )  # fmt: skip
    return fedlab.run(experiment, fedlab.Partition.from_sites(pneumonia, sites), folder=folder)


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("method,settings,rounds,objective,auc,accuracy,norm", ANCHORS)
def test_deterministic_pneumonia_federation(
    method, settings, rounds, objective, auc, accuracy, norm, pneumonia, sites, tmp_path
):  # O57
    run = trained(method, rounds, pneumonia, sites, tmp_path, **settings)
    weight, bias = run.weights("global").values()
    used = np.flatnonzero(pneumonia.table["case"].isin(run.partition_table.query("split == 'train'")["case"]))
    assert abs(mean_loss(pneumonia, used, weight, bias) - objective) < 1e-8
    assert abs(float(torch.cat([weight.ravel(), bias]).norm()) - norm) < 1e-8
    tested = run.predictions.query("split == 'test' and choice == 'last' and model == 'global'")
    assert len(tested) == 624
    assert abs(roc_auc_score(tested["label"], tested["p1"]) - auc) < 1e-8
    assert abs(((tested["p1"] > 0.5) == tested["label"]).mean() - accuracy) < 1e-8
    assert_personal(run, sites)


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("method", sorted(set(PERSONAL) - {row[0] for row in ANCHORS}))
def test_personal_models_of_the_deterministic_federation(method, pneumonia, sites, tmp_path):
    assert_personal(trained(method, 100, pneumonia, sites, tmp_path), sites)


def assert_personal(run: fedlab.runs.Run, sites) -> None:
    for site, norm in zip(sites, PERSONAL.get(run.method, ()), strict=False):
        assert abs(float(torch.cat([tensor.ravel() for tensor in run.weights(site).values()]).norm()) - norm) < 1e-8


def test_centralized_optimum_of_pneumonia(pneumonia, tmp_path):
    train = pneumonia.take(pneumonia.table["split"].to_numpy() == "train")
    part = fedlab.Partition.from_sites(train, np.repeat("Site A", len(train)))
    run = fedlab.run(optimum(rounds=30, lr=0.04, local_steps=50, momentum=0.98), part, folder=tmp_path)
    weight, bias = run.weights("global").values()
    assert abs(mean_loss(pneumonia, np.arange(len(train)), weight, bias) - 0.20534637) < 1e-5


def test_centralized_optimum_of_retina(tmp_path):
    retina = fedlab.load("retinamnist")
    train = retina.take(retina.table["split"].to_numpy() == "train")
    part = fedlab.Partition.from_sites(train, np.repeat("Site A", len(train)))
    run = fedlab.run(optimum(rounds=20, lr=0.02, local_steps=50, momentum=0.98), part, folder=tmp_path)
    weight, bias = run.weights("global").values()
    logits = pixels(train) @ weight.T + bias
    loss = torch.nn.functional.cross_entropy(logits, torch.from_numpy(train.labels.copy()))
    assert abs(float(loss + 0.005 * (weight**2).sum()) - 1.09365677) < 1e-5


def optimum(**changes) -> fedlab.Experiment:
    fixed = {"batch_size": None, "weight_decay": 0.01, "precision": "float64", "evaluate_every": 100, "device": "cpu"}
    return fedlab.Experiment(method="centralized", model="logistic", **fixed, **changes)


def pixels(cases) -> torch.Tensor:
    return torch.from_numpy(np.array(cases.images)).flatten(1).double() / 255


def mean_loss(cases, index, weight, bias) -> float:
    """Mean cross-entropy plus (lambda/2)|w|^2, lambda = 0.01."""
    logits = pixels(cases.take(index)) @ weight.ravel() + bias
    y = torch.from_numpy(cases.labels[index]).double()
    return float(torch.nn.functional.binary_cross_entropy_with_logits(logits, y) + 0.005 * (weight**2).sum())
