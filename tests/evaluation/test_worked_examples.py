"""Published worked examples, to the digits that their sources print."""

import numpy as np
import pytest
from sklearn.datasets import make_moons
from sklearn.model_selection import RepeatedStratifiedKFold, cross_val_score
from sklearn.svm import SVC

from fedlab.evaluation.intervals import auroc, decisions, repeats
from fedlab.evaluation.intervals.interval import t_quantile, z_quantile

OVARIAN = """
3.0 5.8 10 0   3.2 6.3 5 1   3.9 6.8 3 1   2.8 4.8 6 0   3.2 5.8 3 1   0.9 4.0 5 0   2.5 5.7 8 0   1.6 5.6 5 1
3.8 5.7 5 1   3.7 6.7 6 1   3.2 5.4 4 1   3.8 6.6 6 1   4.1 6.6 5 1   3.6 5.7 5 1   4.3 7.0 4 1   3.6 6.7 4 0
2.3 4.4 6 1   4.2 7.6 4 0   4.0 6.6 6 0   3.5 5.8 6 1   3.8 6.8 7 1   3.0 4.7 8 0   4.5 7.4 5 1   3.7 7.4 5 1
3.1 6.6 6 1   4.1 8.2 6 1   4.3 7.0 5 1   4.3 6.5 4 1   3.2 5.1 5 1   2.6 4.7 6 1   3.3 6.8 6 0   1.7 4.0 7 0
3.7 6.1 5 1   3.3 6.3 7 1   4.2 7.7 6 1   3.5 6.2 5 1   2.9 5.7 9 0   2.1 4.8 7 1   2.8 6.2 8 0   4.0 7.0 7 1
3.3 5.7 6 1   3.7 6.9 5 1   3.6 6.6 5 1
"""  # albumin, total protein, K-G score, whether surgery helped


CAROTIDS = """
1 1 87 87   1 1 79 83   2 1 88 94   2 1 95 93   3 1 100 100   3 1 68 79   4 1 65 61   4 1 89 91   5 1 97 97
5 1 100 100   6 1 100 99   6 1 89 88   7 1 77 77   8 1 94 89   8 0 45 44   9 1 89 92   9 0 -11 -17   10 1 95 91
10 0 30 14   11 1 95 95   11 0 10 -122   12 1 100 100   12 0 19 -3   13 1 75 75   14 0 70 73   14 1 70 81
15 0 26 27   15 1 86 93   16 0 0 8   16 1 65 70   17 0 6 23   17 1 100 100   18 0 76 79   18 1 96 95   19 0 44 55
19 1 100 100   20 0 73 67   20 1 97 94   21 1 85 86   22 0 58 60   22 1 100 99   23 0 -2 -2   23 1 100 100
24 0 -3 -14   24 0 0 -11   25 0 47 -3   25 0 -94 -90   26 0 -16 17   26 0 75 85   27 0 5 -22   27 0 -1 -14
28 0 -6 -52   29 0 37 38   29 0 47 35   30 0 42 40   30 0 4 6   31 0 55 23   31 0 55 45   32 0 4 -87   32 0 -13 -65
33 0 49 24   33 0 35 9   34 0 53 66   35 0 2 -15   36 0 -48 -78
"""  # patient, whether stenosis is significant, its percentage by two readers: both carotid arteries of most patients


def wald(parts):
    half = z_quantile() * parts.variance**0.5
    return parts.value - half, parts.value + half


def test_delong_ovarian_cancer():
    """DeLong 1988 (Biometrics 44:837), as printed by the SAS/STAT User's Guide, LOGISTIC, "Comparing ROC Curves"."""
    albumin, protein, kg, helped = np.array(OVARIAN.split(), float).reshape(-1, 4).T
    each = [auroc.auroc_parts(score, helped == 1, np.arange(43)) for score in (albumin, -kg, protein)]
    printed = [(0.7366, 0.0927, 0.5549, 0.9182), (0.7258, 0.1028, 0.5243, 0.9273), (0.6478, 0.1000, 0.4518, 0.8439)]
    for parts, row in zip(each, printed, strict=True):
        assert (parts.value, parts.variance**0.5, *wald(parts)) == pytest.approx(row, abs=5e-5)


def test_delong_ct_ratings():
    """Hanley and McNeil 1982 (Radiology 143:29), 109 patients, as printed by the Stata manual, `roctab`."""
    counts = [33, 6, 6, 11, 2], [3, 2, 2, 11, 33]
    score = np.concatenate([np.repeat(np.arange(5), each) for each in counts])
    parts = auroc.auroc_parts(score, np.repeat([0, 1], [58, 51]), np.arange(109))
    assert (round(parts.value, 4), round(parts.variance**0.5, 4)) == (0.8932, 0.0307)
    assert wald(parts) == pytest.approx((0.83295, 0.95339), abs=5e-6)


def test_obuchowski_by_the_equations_of_the_paper():
    """Obuchowski 1997 (Biometrics 53:567), equations 4 to 6, patient by patient and pair by pair."""
    rng = np.random.default_rng(0)
    patient = np.repeat(np.arange(12), rng.integers(1, 5, 12))
    label = rng.random(len(patient)) < 0.4  # of images: most patients have both
    score = np.round(rng.normal(label, 1) + rng.normal(size=12)[patient], 1)
    m, n = label.sum(), (~label).sum()

    def psi(x, y):
        return 1.0 if x > y else 0.5 if x == y else 0.0

    area = sum(psi(x, y) for x in score[label] for y in score[~label]) / (m * n)
    above, below = np.zeros(12), np.zeros(12)  # X_i - m_i area, Y_i - n_i area
    for image, person in enumerate(patient):
        if label[image]:
            above[person] += np.mean([psi(score[image], y) for y in score[~label]]) - area
        else:
            below[person] += np.mean([psi(x, score[image]) for x in score[label]]) - area
    i10, i01, everyone = len(set(patient[label])), len(set(patient[~label])), 12
    s10, s01 = i10 / ((i10 - 1) * m) * (above**2).sum(), i01 / ((i01 - 1) * n) * (below**2).sum()
    s11 = everyone / (everyone - 1) * (above * below).sum()
    parts = auroc.auroc_parts(score, label, patient)
    assert parts.value == pytest.approx(area, abs=1e-14)
    assert parts.variance == pytest.approx(s10 / m + s01 / n + 2 * s11 / (m * n), rel=1e-12)


def test_obuchowski_carotid_arteries():
    """The example of Obuchowski 1997, as printed by the guide to her program for clustered ROC curves."""
    patient, stenosis, *readers = np.array(CAROTIDS.split(), float).reshape(-1, 4).T
    one, two = (auroc.auroc_parts(reader, stenosis == 1, patient) for reader in readers)
    assert (one.patients, one.positives, one.negatives) == (36, 23, 27)
    areas = [(round(parts.value, 4), round(parts.variance**0.5, 4)) for parts in (one, two)]
    assert areas == [(0.9837, 0.0108), (0.9852, 0.0097)]
    assert wald(one) == pytest.approx((0.9625, 1.005), abs=5e-4)
    arteries = int(stenosis.sum()), int((stenosis == 0).sum())
    printed = [(0.0013151307, 0.0022375873, 0.0051785478), (0.0009284122, 0.0022598583, -0.0005015760)]
    for parts, (s10, s01, s11) in zip((one, two), printed, strict=True):
        first, second = (s * each for s, each in zip(parts.variances, arteries, strict=True))
        shared = (parts.variance - sum(parts.variances)) / 2 * np.prod(arteries)
        assert (first, second, shared) == pytest.approx((s10, s01, s11), abs=5e-11)
    gain = auroc.AurocParts(two.value - one.value, two.positive - one.positive, two.negative - one.negative, 23, 27)
    assert (round(gain.value, 4), round(gain.variance**0.5, 4)) == (0.0014, 0.0066)
    assert wald(gain) == pytest.approx((-0.0115, 0.0143), abs=5e-5)


def test_holm_24_tests():
    """SAS/STAT User's Guide, MULTTEST, "Inputting Raw p-Values": the column "Stepdown Bonferroni"."""
    raw = """0.28282 0.30688 0.71022 0.77175 0.78180 0.88581 0.54685 0.84978 0.24228 0.58977 0.03498 0.41607 0.31631
    0.05254 0.45061 0.75758 0.12496 0.49485 0.21572 0.50505 0.94372 0.81260 0.77596 0.36889"""
    expected = np.ones(24)
    expected[10] = 0.8395
    assert np.round(decisions.holm([float(p) for p in raw.split()]), 4).tolist() == expected.tolist()


def test_nadeau_and_bengio_on_two_moons():
    """scikit-learn, "Statistical comparison of models using grid search": mean AUROC .94 and .93, corrected t 0.750."""
    points, label = make_moons(noise=0.352, random_state=1, n_samples=100)
    folds = RepeatedStratifiedKFold(n_splits=10, n_repeats=10, random_state=0)
    rbf, linear = (
        cross_val_score(SVC(kernel=kernel, random_state=0), points, label, cv=folds, scoring="roc_auc")
        for kernel in ("rbf", "linear")
    )
    assert (round(rbf.mean(), 2), round(linear.mean(), 2)) == (0.94, 0.93)
    found = repeats.over_splits(rbf - linear, n_test=10, n_train=90)
    assert round((rbf - linear).mean() / (found.width / 2 / t_quantile(99)), 3) == 0.750
