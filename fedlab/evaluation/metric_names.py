"""Names that other libraries have for metrics, and what fedlab calls them or has instead."""

import re
from collections.abc import Collection

from fedlab.core.registry import nearest

__all__ = ["suggestion"]

NAMES = {  # in fedlab -> in scikit-learn, torchmetrics, MONAI and papers, in lower case without other signs
    "auroc": "auc rocauc rocaucscore areaunderroc binaryauroc multiclassauroc multilabelauroc rocaucmetric aucroc",
    "average_precision": "ap auprc prauc aucpr averageprecisionscore binaryaverageprecision map",
    "accuracy": "acc accuracyscore binaryaccuracy multiclassaccuracy top1",
    "balanced_accuracy": "balancedaccuracyscore bacc balacc macroaccuracy",
    "brier": "brierscore brierscoreloss",
    "ece": "calibrationerror expectedcalibrationerror binarycalibrationerror multiclasscalibrationerror",
    "log_loss": "logloss nll crossentropy crossentropyloss negativeloglikelihood",
    "kappa": "cohenkappa cohenkappascore quadraticweightedkappa qwk weightedkappa",
    "sensitivity": "recall recallscore tpr truepositiverate binaryrecall hitrate",
    "specificity": "tnr truenegativerate binaryspecificity",
    "dice": "dicescore dicecoefficient dicecoef dicemetric generalizeddicescore dsc f1 f1score",
    "iou": "jaccard jaccardindex jaccardscore binaryjaccardindex meaniou miou meaniou iouscore",
    "hd95": "hausdorff hausdorffdistance hausdorffdistancemetric hd hausdorff95",
    "mae": "l1 l1loss meanabsoluteerror absoluteerror maemetric",
    "rmse": "rootmeansquarederror rmsemetric",
    "r2": "r2score rsquared coefficientofdetermination",
    "bias": "me meanerror",
    "nsd": "surfacedice normalizedsurfacedice normalisedsurfacedice surfacedistance",
}
INSTEAD = {  # what has no counterpart -> the nearest in meaning
    "f1 f1score binaryf1score multiclassf1score fscore fbeta fbetascore": ("sensitivity", "specificity"),
    "precision precisionscore ppv binaryprecision": ("average_precision", "specificity"),
    "mcc matthewscorrcoef matthewscorrelation": ("kappa", "balanced_accuracy"),
    "mse l2 meansquarederror msemetric": ("rmse", "mae"),
    "assd asd averagesurfacedistance": ("hd95", "nsd"),
}


def suggestion(name: str, known: Collection[str]) -> str:
    """The end of an error about an unknown metric: the name that fedlab has for it, or what is nearest.

    known: the metrics that fit the task.

    Examples
    --------
    >>> from fedlab.evaluation.metric_names import suggestion
    >>> suggestion("roc_auc", ["auroc", "accuracy"])
    "did you mean 'auroc'?"
    >>> suggestion("f1_score", ["auroc", "sensitivity", "specificity"])
    "fedlab has no metric of this meaning; the nearest are 'sensitivity' and 'specificity'"
    """
    plain = re.sub(r"[^a-z0-9]", "", str(name).lower())
    for ours, others in NAMES.items():
        if ours in known and plain in (*others.split(), ours.replace("_", "")):
            return f"did you mean {ours!r}?"
    for others, instead in INSTEAD.items():
        if plain in others.split() and set(instead) <= set(known):
            return f"fedlab has no metric of this meaning; the nearest are {' and '.join(map(repr, instead))}"
    return nearest(name, known)
