"""The items of two reporting checklists: number, what the item is about in our own words, and what answers it.

CLAIM, 2024 update: Tejani et al. 2024, Radiology: Artificial Intelligence 6:e240300. TRIPOD+AI: Collins et al. 2024,
BMJ 385:e078378. Read the items in these papers; the words here only name them.
"""

from typing import NamedTuple


class Item(NamedTuple):
    """An item. answer: a property of `fedlab.reporting.filled_checklist.Facts`; authors: what is theirs."""

    number: str
    topic: str
    answer: str = ""
    authors: str = ""


CLAIM = (
    Item("1", "Title: that AI is studied, and of which kind", "kind"),
    Item("2", "Structured abstract", "", "write it from the finding of the report"),
    Item("3", "Clinical and scientific background, intended use", "", "background and intended use"),
    Item("4", "Aims and hypotheses", "", "aims and hypotheses"),
    Item("5", "Prospective or retrospective", "", "how and when the cases were collected"),
    Item("6", "Goal of the study", "compared", "what the comparison is for"),
    Item("7", "Where the data are from", "source", "origin of the cases"),
    Item("8", "Which cases were included and excluded", "left_out", "criteria of the dataset itself"),
    Item("9", "Preprocessing", "preprocessing", "what was done before the dataset was stored"),
    Item("10", "Subsets of the data", "subset"),
    Item("11", "De-identification", "", "how cases were de-identified"),
    Item("12", "Missing data", "missing", "why values are missing"),
    Item("13", "How images were acquired", "acquisition", "scanners and protocols of the dataset"),
    Item("14", "Definition of the reference standard", "labels", "how each class was established"),
    Item("15", "Why this reference standard", "", "why it was chosen"),
    Item("16", "Who annotated the reference standard", "", "readers and their qualification"),
    Item("17", "Annotation of the test cases", "test_labels", "who annotated the test cases"),
    Item("18", "Variability between and within readers", "readers", "agreement of the readers of the dataset"),
    Item("19", "How cases were assigned to training, validation and test", "splits"),
    Item("20", "Level at which these parts are disjoint", "disjoint"),
    Item("21", "Intended size of the test set", "test_size", "how the size was planned"),
    Item("22", "The model", "model"),
    Item("23", "Software and versions", "software"),
    Item("24", "Initial parameters", "initial"),
    Item("25", "Training", "training"),
    Item("26", "Choice of the final model", "choice"),
    Item("27", "Ensembles", "ensemble"),
    Item("28", "Metrics", "metrics"),
    Item("29", "Uncertainty and significance", "statistics"),
    Item("30", "Robustness and sensitivity analyses", "robustness", "further analyses"),
    Item("31", "Explainability", "", "methods of explanation, if any; fedlab has none"),
    Item("32", "Evaluation on internal data", "internal"),
    Item("33", "Evaluation on external data", "external"),
    Item("34", "Registration as a trial", "simulation", "registration"),
    Item("35", "Numbers of cases included and excluded", "flow"),
    Item("36", "Characteristics of the cases of each part", "table_one"),
    Item("37", "Performance with its uncertainty", "performance"),
    Item("38", "Diagnostic performance and its precision", "sites"),
    Item("39", "Analysis of errors", "errors", "look at wrong cases with cases.show() and plots.contours"),
    Item("40", "Limitations", "", "limitations; of every simulation that its sites are drawn from one dataset"),
    Item("41", "Implications for practice", "", "implications"),
    Item("42", "Protocol and further details", "again", "where the protocol is"),
    Item("43", "Availability of software, models and data", "available", "where the run folders will be"),
    Item("44", "Funding and conflicts of interest", "", "funding and conflicts"),
)

TRIPOD = (
    Item("1", "Title: development or evaluation of a prediction model", "kind"),
    Item("2", "Abstract", "", "write it from the finding of the report"),
    Item("3a", "Clinical context and existing models", "", "context"),
    Item("3b", "Intended patients, purpose and users", "", "intended use"),
    Item("3c", "Known inequalities between groups of patients", "", "known inequalities"),
    Item("4", "Objectives", "compared", "objectives"),
    Item("5a", "Data sources and how representative they are", "source", "how representative they are"),
    Item("5b", "Dates of recruitment", "simulation", "dates"),
    Item("6a", "Setting, number and place of centres", "centres", "setting"),
    Item("6b", "Who was eligible", "left_out", "criteria of the dataset itself"),
    Item("6c", "Treatments", "simulation", "treatments"),
    Item("7", "Preparation and quality checks of the data", "preprocessing", "checks before the dataset was stored"),
    Item("8a", "The outcome and how it was established", "labels", "how each class was established"),
    Item("8b", "Qualification of those who established it", "readers", "their qualification"),
    Item("8c", "Blinding of the outcome", "", "blinding"),
    Item("9a", "Choice of predictors", "", "why images are the predictors"),
    Item("9b", "Definition of predictors", "acquisition", "scanners and protocols"),
    Item("9c", "Assessors of predictors", "", "not needed where images alone are the input"),
    Item("10", "Sample size", "test_size", "how the size was planned"),
    Item("11", "Missing data", "missing", "why values are missing"),
    Item("12a", "Which data were used for what", "splits"),
    Item("12b", "How predictors enter the model", "preprocessing"),
    Item("12c", "Type of model, building, tuning and internal validation", "training"),
    Item("12d", "Heterogeneity between centres", "robustness"),
    Item("12e", "Measures of performance", "statistics"),
    Item("12f", "Updating of the model, such as recalibration", "", "whether any model was recalibrated"),
    Item("12g", "How predictions of the evaluation were made", "choice"),
    Item("13", "Imbalance of classes", "balance", "methods against imbalance"),
    Item("14", "Fairness", "", "groups to compare: fedlab.subgroups makes the table"),
    Item("15", "Output of the model and thresholds", "output"),
    Item("16", "Differences between development and evaluation data", "external"),
    Item("17", "Ethics approval", "", "approval, or why none was needed"),
    Item("18a", "Funding", "", "funding"),
    Item("18b", "Conflicts of interest", "", "conflicts"),
    Item("18c", "Protocol", "again", "where the protocol is"),
    Item("18d", "Registration", "simulation", "registration"),
    Item("18e", "Availability of data", "available", "where the data are"),
    Item("18f", "Availability of code", "software", "where the code is"),
    Item("19", "Involvement of patients and the public", "simulation", "involvement"),
    Item("20a", "Flow of participants", "flow"),
    Item("20b", "Characteristics of participants, by centre", "table_one"),
    Item("20c", "Comparison of development and evaluation data", "balance"),
    Item("21", "Numbers of participants and events in each analysis", "internal"),
    Item("22", "The full model", "model"),
    Item("23a", "Performance with intervals, also in groups", "performance", "groups, with fedlab.subgroups"),
    Item("23b", "Heterogeneity of performance between centres", "sites"),
    Item("24", "Results of updating", "", "results of recalibration, if any"),
    Item("25", "Interpretation", "", "interpretation"),
    Item("26", "Limitations", "", "limitations; of every simulation that its sites are drawn from one dataset"),
    Item("27a", "Poor or missing inputs in use", "", "what happens then"),
    Item("27b", "What users have to do and to know", "", "users and their expertise"),
    Item("27c", "Next steps", "", "next steps"),
)
CHECKLISTS = {"claim": CLAIM, "tripod": TRIPOD}
TITLES = {"claim": "CLAIM (2024 update)", "tripod": "TRIPOD+AI (2024)"}
EDITIONS = {
    "claim": "Numbers are those of the 2024 update (44 items): Tejani et al. 2024, Radiology: Artificial Intelligence"
    " 6:e240300. Topics are in our words.",
    "tripod": "Numbers are those of 2024 (27 items): Collins et al. 2024, BMJ 385:e078378. Topics are in our words.",
}
