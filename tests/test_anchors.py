"""Numbers that independent implementations reached on real data, through the public API.

The deterministic federation of PneumoniaMNIST has no randomness at all: every method must land on the same digits. The
rows above the line were published. Those below are rounds 5 and 10 of trajectories that agreed to 1e-8 at rounds 25 and
100 with an implementation in plain numpy that shares no line with this one.
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
    # -- below: trajectories that agreed with an independent implementation in numpy
    ("fedavg(weighting='uniform')", {}, 10, 0.509510840092, 0.880254218716, 0.64903846, 0.3229790907),
    ("fedavgm(nesterov=True)", {}, 10, 0.32206606773, 0.901446416831, 0.80448718, 1.20331576338),
    ("fedadagrad", {}, 10, 0.4865437453, 0.879268025422, 0.65705128, 0.413300867929),
    ("fedyogi", {}, 10, 0.427568348963, 0.88597413982, 0.69230769, 0.811141759605),
    ("fedadam(bias_correction=True)", {}, 10, 0.427372203492, 0.885853605084, 0.69230769, 0.756878369002),
    ("fedprox(mu=1.0)", {}, 10, 0.522569254631, 0.872364672365, 0.62980769, 0.301004883827),
    ("scaffold(option=1)", {}, 10, 0.488797216711, 0.888231426693, 0.69391026, 0.380766055716),
    ("scaffold(weighting='uniform')", {}, 10, 0.496254102196, 0.89087223318, 0.72115385, 0.361589586096),
    ("scaffold(option=1, weighting='uniform')", {}, 10, 0.486141001884, 0.892099495946, 0.73397436, 0.393074996783),
    ("fednova", {}, 10, 0.518963095062, 0.87362480824, 0.62980769, 0.312612333892),
    ("feddyn(alpha=0.1)", {}, 10, 0.284949492003, 0.903440718825, 0.82692308, 1.62305102601),
    ("feddyn(alpha=0.1, weighting='cases')", {}, 10, 0.285122895163, 0.903396888012, 0.82532051, 1.62001646326),
    ("fedsam(rho=0.1)", {}, 10, 0.549665549732, 0.856662283585, 0.62660256, 0.343203001567),
    ("qfedavg(q=0.2)", {}, 10, 0.529828950313, 0.8758382643, 0.63782051, 0.262485848856),
    ("qfedavg(q=1)", {}, 10, 0.573583332459, 0.865833881218, 0.62660256, 0.155080764819),
    ("afl(lambda_lr=0.1)", {}, 10, 0.558686003875, 0.876616261232, 0.64102564, 0.193414377084),
    ("pfedme(lam=15, inner=5)", {}, 10, 0.53474428228, 0.868463730002, 0.62660256, 0.261648586173),
    ("ditto(lam=0.1)", {}, 10, 0.518963095062, 0.87362480824, 0.62980769, 0.312612333892),
    ("swarm(merge='median', weighting='cases')", {}, 10, 0.561317073765, 0.852859960552, 0.62500000, 0.301212316501),
    ("gossip('ring')", {}, 10, 0.511230871435, 0.879443348674, 0.64583333, 0.318386783344),
    ("gossip('star')", {}, 10, 0.511876818469, 0.879355687048, 0.64583333, 0.316400849921),
    ("feddyn(alpha=0.1, release='active')", {}, 10, 0.299113980962, 0.902706552707, 0.82211538, 1.42086627902),
    ("afl(lambda_lr=0.1, release='last')", {}, 10, 0.519590817051, 0.8973153627, 0.79967949, 0.339508901107),
    ("afl(lambda_lr=0.1)", {"local_steps": 1}, 10, 0.63518672949, 0.747107166338, 0.62500000, 0.0353135922557),
    ("fedavg", {"aggregate": "median"}, 10, 0.493461060756, 0.88704799474, 0.68108974, 0.367307898596),
    ("fedavg", {"aggregate": "krum(f=0)"}, 10, 0.508622698397, 0.902980495288, 0.84455128, 0.426883494995),
    ("fedavg", {"aggregate": "multikrum(f=0, c=2)"}, 10, 0.496918949538, 0.884407188253, 0.66666667, 0.360232045845),
    ("fedavg", {"aggregate": "geomedian"}, 10, 0.561315781054, 0.852859960552, 0.62500000, 0.301212407694),
    ("fedavg", {"aggregate": "clipped(0.05)"}, 10, 0.558067521746, 0.850515012053, 0.62500000, 0.226475151272),
    ("cyclic(order='reversed')", {}, 5, 0.674498170926, 0.857264957265, 0.62500000, 0.592960120519),
    ("cyclic(mitigation='iterations')", {}, 5, 0.656433315586, 0.910497479728, 0.52243590, 0.555790476386),
    ("cyclic(mitigation='rate')", {}, 5, 0.65702517891, 0.910486522025, 0.52243590, 0.553107064731),
    ("cyclic(mitigation='loss')", {}, 5, 0.429268650649, 0.90540214771, 0.84935897, 0.713453691358),
]
PERSONAL = {  # method -> norms of the four personal models after 10 rounds
    "ditto(lam=0.1)": [0.207554044061, 0.300815768698, 0.420115046569, 0.366496026163],
    "apfl(alpha=0.5, adaptive=False)": [0.256231875826, 0.242505557948, 0.275761002456, 0.262865800881],
    "apfl(alpha=0.5)": [0.256313590509, 0.24489720683, 0.27610484138, 0.263350641612],
    "pfedme(lam=15, inner=5)": [0.285262551714, 0.279930675974, 0.288060242056, 0.285126684942],
    "local": [0.204142351645, 0.301212316501, 0.426883494995, 0.370306009164],
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
    assert_personal(trained(method, 10, pneumonia, sites, tmp_path), sites)


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
