"""A panel that partitions cases into sites with a slider for each axis of heterogeneity."""

from __future__ import annotations

import warnings
from base64 import b64decode
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import ipywidgets
from ipywidgets import HTML, HBox, IntSlider, Layout, SelectMultiple, ToggleButtons, VBox

from fedlab.core.registry import nearest
from fedlab.core.warnings import warn
from fedlab.data import catalogue
from fedlab.data.cases import Cases
from fedlab.data.class_choice import source_classes, with_choice
from fedlab.data.thumbnails import check_slice
from fedlab.experiments.scenarios import SCENARIOS
from fedlab.learning.models import MODELS
from fedlab.notebook.live import Screen, picture
from fedlab.notebook.output import show_controls
from fedlab.partitioning.build import partition
from fedlab.partitioning.partitions import Partition
from fedlab.plots import sites as draw
from fedlab.plots.names import names
from fedlab.plots.site_overview import Begun, begin, complete
from fedlab.widgets.controls import CopyText, Notice, Settings, button, choice, guarded, narrow
from fedlab.widgets.copy_settings import as_papermill, as_yaml, axes, plain, signature
from fedlab.widgets.redraw_time import RedrawTime
from fedlab.widgets.short_training import Content, ShortTraining
from fedlab.widgets.side_by_side import PANEL, STYLE

QUALITY = {"dpi": 120, "effort": 1}  # of the picture that follows the sliders: fast rather than small or sharp
WIDTH = 6.6  # inches of the figure
DATASET = "this dataset cannot be used (the figure shows the previous one)"
SETTING = "this partition cannot be made (the figure shows the previous one)"
SITES, TRAINING = "Sites", "Training"  # what the figure shows
NONE = "choose …"
SITE_COLUMNS = ("site", "hospital", "centre", "center", "institution", "clinic", "laboratory", "scanner", "vendor")
SEGMENTING = ("unet", "segresnet", "dynunet")  # models for masks
LONGEST = 100  # changes that can be undone


class State(NamedTuple):
    """What the panel is set to. dataset: the text by which the cases were loaded; None if they were made otherwise."""

    dataset: str | None
    cases: Cases
    model: str
    values: dict[str, Any]


def sites(cases: Cases, *, model: str | None = None, **start: Any) -> Panel:
    """Partition cases into sites with sliders: a figure follows each change, and the setting can be copied.

    As a cell's last expression it shows the figure as an ordinary output, and the controls next to it, or below where
    the page is narrow. A headless execution keeps the figure. Dataset, sites, model and a scenario of
    `fedlab.SCENARIOS` can be chosen, changes undone, and local and federated training compared for a few rounds.

    Parameters
    ----------
    cases : Cases
        What `fedlab.load` returned.
    model : str, optional
        The model at the start, a name in `fedlab.MODELS`. If it is given, or chosen in the panel, it is copied, too.
    **start
        Where the controls start, by the names of `fedlab.partition`. A notebook that is run from start to end has the
        partition that `fedlab.partition(cases, **start)` makes.

    Returns
    -------
    Panel
        `values` are the arguments of `fedlab.partition` that the controls show, `partition` is the last partition that
        could be made, `drawing` its figure and table, `controls` the widget.

    Raises
    ------
    TypeError
        If `start` has a name that `fedlab.partition` does not take.
    ValueError
        If `fedlab.partition` refuses `start`.

    Examples
    --------
    >>> import fedlab
    >>> panel = fedlab.widgets.sites(fedlab.load("phantoms(cases=120, size=16)"), sites=3, prevalence=0.4)
    >>> panel.values["prevalence"], panel.partition.sites
    (0.4, ['Site A', 'Site B', 'Site C'])
    """
    return Panel(cases, start, model)


class Panel:
    """Controls, a figure and the setting to copy.

    values: what the controls show. partition, hash, drawing, png: of the last setting that could be made. controls: the
    widget. comparison: the short training. notice: errors and warnings.
    """

    def __init__(self, cases: Cases, start: dict[str, Any], model: str | None) -> None:
        self.cases, self.screen, self.notice, self.time = cases, Screen(), Notice(), RedrawTime()
        self._copies_model, self._quiet, self._shown_training = model is not None, False, False
        self.settings = Settings(_complete(start), self._moved, _site_columns(cases))
        named = catalogue.described(cases)
        model = model or _default_model(cases)
        self.scenario = choice("Scenario", [NONE, *SCENARIOS], NONE, "A setting that people recognise")
        self.dataset = choice(
            "Dataset", list(dict.fromkeys([named, *catalogue.DATASETS])), named, "Loaded when it is chosen"
        )
        self.model = choice("Model", _models(cases, model), model, "Of the short training, and of what is copied")
        self.classes = SelectMultiple(
            description="Classes", rows=3, tooltip="At least two that take part, chosen with Ctrl or Shift", **narrow()
        )
        self.slice = IntSlider(0, description="Slice of volumes", continuous_update=False, **narrow())
        self.view = ToggleButtons(
            options=[SITES, TRAINING], style={"button_width": "84px"}, layout=Layout(width="auto")
        )
        self.parameters = CopyText("For papermill", "Copy as options of papermill")
        self.yaml = CopyText("As YAML", "Copy as a file for papermill -f")
        self.comparison = ShortTraining(self._follow_training)
        self.undo_button = button("Undo", "Take the last change back", "undo")
        self.reset_button = button("Reset", "Back to the values at the start", "fast-backward")
        self.undo_button.disabled = True
        self._offer_slices()
        self._offer_classes()
        self.start, self._history = self.state, list[State]()
        self._last = self.start
        self._partition(print)
        self._connect()
        self.controls = self._layout()

    def _connect(self) -> None:
        """Call what each control is for, and show every error."""
        for control, doing, call in (
            (self.undo_button, "undo", self.undo),
            (self.reset_button, "reset", lambda: self._change(self.start)),
            (self.comparison.train_button, "training", self._train),
        ):
            control.on_click(guarded(self.notice, doing, call))
        for chosen, doing, react in (
            (self.scenario, "this scenario cannot be used", self._take_scenario),
            (self.dataset, DATASET, lambda: self._load(self.dataset.value)),
            (self.classes, DATASET, self._take_classes),
            (self.model, "model", self._take_model),
            (self.slice, "slice", self._redraw),
            (self.view, "view", self._show),
        ):
            chosen.observe(self._unless_quiet(doing, react), "value")

    def _unless_quiet(self, doing: str, call: Callable[[], None]) -> Callable[..., None]:
        """Wrap a call as a callback for changes by the user."""
        return guarded(self.notice, doing, lambda: None if self._quiet else call())

    def _layout(self) -> ipywidgets.Widget:
        """Put all controls in one column, with the style that places it next to the figure."""
        buttons = HBox([self.undo_button, self.reset_button, self.comparison.controls])
        choices = [self.scenario, self.dataset, self.classes, *self.settings.rows(), self.slice, self.model]
        below = [self.parameters.row, self.yaml.row, buttons, self.view, self.comparison.notice.widget]
        column = VBox([HTML(STYLE, layout=Layout(height="0", margin="0")), *choices, *below, self.notice.widget])
        column.add_class(PANEL)
        return column

    @property
    def values(self) -> dict[str, Any]:
        """Arguments of `fedlab.partition`."""
        return self.settings.values

    @property
    def state(self) -> State:
        """Dataset, model and values."""
        return State(catalogue.loaded_from(self.cases), self.cases, self.model.value, self.values)

    @property
    def hash(self) -> str:
        """The fingerprint of the partition."""
        return self.partition.fingerprint

    def undo(self) -> None:
        """Take the last change back, if there is one."""
        if self._history:
            self._last = self._history.pop()
            self.undo_button.disabled = not self._history
            self._restore(self._last)

    def _moved(self) -> None:
        """Follow a change of a slider, which is no scenario any more."""
        self._set(self.scenario, NONE)
        self._remember()
        self._follow()

    def _remember(self) -> None:
        """Make the last state one that can be undone to."""
        self._history = [*self._history, self._last][-LONGEST:]
        self._last = self.state
        self.undo_button.disabled = False

    def _change(self, state: State) -> None:
        """Go to a state, as one change."""
        self._restore(state)
        self._remember()

    def _restore(self, state: State) -> None:
        """Set all controls to a state and follow."""
        if self.cases is not state.cases:
            self._adopt_cases(state.cases, state.model)
        self._set(self.model, state.model)
        self._set(self.scenario, NONE)
        self.settings.set(state.values)
        self._follow()

    def _set(self, control: Any, value: Any) -> None:
        """Set a control without following."""
        self._quiet = True
        if value not in (control.options if hasattr(control, "options") else [value]):
            control.options = [value, *control.options]
        control.value = value
        self._quiet = False

    def _take_scenario(self) -> None:
        """Set what a scenario sets."""
        if self.scenario.value != NONE:
            self.settings.set(SCENARIOS.fields(self.scenario.value))
            self._remember()
            self._follow()

    def _take_model(self) -> None:
        """Copy the model from now on."""
        self._copies_model = True
        self._remember()
        self._write()

    def _take_classes(self) -> None:
        """Load the dataset with the chosen classes; none chosen means all."""
        dataset, chosen = catalogue.loaded_from(self.cases), list(self.classes.value)
        if len(chosen) == 1:
            self._offer_classes()
            raise ValueError(f"{chosen[0]!r} alone was chosen: hold Ctrl (on a Mac Cmd) and click on at least two")
        if dataset is not None:
            self._load(with_choice(dataset, None if len(chosen) in (0, len(self.classes.options)) else chosen))

    def _load(self, dataset: str) -> None:
        """Load a dataset and partition it as the controls say; keep the previous one if that fails."""
        before = self.state
        try:
            self.notice.say(f"loading {dataset} …")
            with warnings.catch_warnings(record=True) as caught:
                warnings.simplefilter("always")
                cases = _with_target(dataset, before.cases.target)
                self._adopt_cases(cases, _default_model(cases) if cases.task != before.cases.task else before.model)
                self._partition(self.notice.say)
            self._say(caught)
        except Exception:
            self._adopt_cases(before.cases, before.model)
            self.settings.set(before.values)
            raise
        self._remember()

    def _adopt_cases(self, cases: Cases, model: str) -> None:
        """Offer what these cases have: their sites, slices and models."""
        self.cases = cases
        self._set(self.dataset, catalogue.described(cases))
        self._quiet = True
        self.model.options = _models(cases, model)
        self._quiet = False
        self._set(self.model, model)
        columns = _site_columns(cases)
        if isinstance(self.settings.kept.get("sites"), str) and self.settings.kept["sites"] not in columns:
            self.settings.set({"sites": 4})
        self.settings.offer(columns)
        self._offer_slices()
        self._offer_classes()

    def _offer_classes(self) -> None:
        """Show the classes of a known dataset of several, those that take part chosen."""
        offered = source_classes(self.cases) if self._takes_classes() else []
        self._quiet = True
        self.classes.options = [(text, each) for each, text in names(offered).items()]
        self.classes.value = [each for each in offered if each in self.cases.classes]
        self.classes.layout.display = None if len(offered) > 2 else "none"
        self._quiet = False

    def _takes_classes(self) -> bool:
        """Return whether the dataset has a name, which can be written with a choice of classes."""
        dataset = catalogue.loaded_from(self.cases)
        return dataset is not None and dataset.split("(")[0].strip() in catalogue.DATASETS

    def _offer_slices(self) -> None:
        """Show the slider of slices for volumes, at their middle."""
        shape = self.cases.shape
        self._quiet = True
        self.slice.value, self.slice.max = 0, max(1, shape[-1] - 1)
        self.slice.value = check_slice(None, shape) or 0
        self.slice.layout.display = None if len(shape) == 4 else "none"
        self._quiet = False

    def _follow(self) -> None:
        """Partition, measure and draw; if the setting is refused, show the reason and keep the last figure."""
        self._set(self.view, SITES)
        try:
            with warnings.catch_warnings(record=True) as caught:
                warnings.simplefilter("always")
                self._partition(self.notice.say)
            self._say(caught)
        except Exception as error:  # the traceback of a callback is not shown in the notebook
            self.notice.fail(error, SETTING)

    def _partition(self, announce: Callable[[str], None]) -> None:
        """Partition the cases as the controls say and show the sites; announce before it begins if it takes long."""
        size = len(self.cases), self._site_count()
        if text := self.time.announcement(*size):
            announce(text)
        with self.time.measured(*size):
            self._adopt(partition(self.cases, **self.values))

    def _site_count(self) -> int:
        """Return how many sites the controls want; 1 where that cannot be known, which the partition refuses."""
        sites = self.values["sites"]
        if isinstance(sites, str):
            return int(self.cases.table[sites].nunique()) if sites in self.cases.table else 1
        return max(1, sites) if isinstance(sites, int) else 1

    def _say(self, caught: Iterable[warnings.WarningMessage]) -> None:
        """Show warnings, each once."""
        self.notice.say("; ".join(dict.fromkeys(str(one.message) for one in caught)))

    def _adopt(self, part: Partition) -> None:
        """Show a partition and the setting that makes it again; the sites first, since measuring them takes as long."""
        begun = None
        if self.screen.shown and self.view.value == SITES:
            begun = begin(part, self.drawing, slice=self._slice(part), width=WIDTH)
            self.screen.show(*_picture(begun.axes.figure))
        try:
            self._draw(part, begun)
        except Exception:
            self._show()  # the last one
            raise
        self.partition = part
        self._write()
        self._show()

    def _draw(self, part: Partition, begun: Begun | None = None) -> None:
        """Draw a partition, or complete the figure that was begun."""
        slice = self._slice(part)
        drawn = draw(part, slice=slice, width=WIDTH) if begun is None else complete(begun, part, slice=slice)
        self._shown = _picture(drawn.figure)
        self.drawing, self.png = drawn, b64decode(self._shown[0]["image/png"])

    def _slice(self, part: Partition) -> int | None:
        """Return the chosen slice of volumes."""
        return self.slice.value if len(part.cases.shape) == 4 else None

    def _redraw(self) -> None:
        """Draw the same partition again, another slice of it."""
        self._draw(self.partition)
        self._set(self.view, SITES)
        self._show()

    def _write(self) -> None:
        """Write the setting that makes the partition again."""
        dataset = catalogue.loaded_from(self.cases)
        model = {"model": self.model.value} if self._copies_model else {}
        target = {} if self.cases.target is None else {"target": self.cases.target}
        named = ({} if dataset is None else {"dataset": dataset}) | target | model | self.values
        self.parameters.value, self.yaml.value = as_papermill(named), as_yaml(named)

    def _show(self) -> None:
        """Show the sites, or the training if it is looked at and there is one."""
        content = self.comparison.shown if self.view.value == TRAINING else None
        if self.screen.shown:
            self.screen.show(*(content or self._shown))

    def _train(self) -> None:
        """Start the short training on the present partition and look at it."""
        self._set(self.view, TRAINING)
        self.comparison.start(self.partition, self.model.value)
        self._show()

    def _follow_training(self, content: Content) -> None:
        """Show a picture of the training, if it is looked at."""
        if self.view.value == TRAINING and self.screen.shown:
            self.screen.show(*content)

    def _ipython_display_(self) -> None:
        """Display the figure, which a headless execution keeps, then the controls."""

        self.screen.open(*self._shown)
        show_controls(self.controls)


def _picture(figure: Any) -> Content:
    """Return a figure for the screen; readers without pictures get its title."""
    return picture(figure, figure.axes[0].get_title(loc="left"), **QUALITY)


def _with_target(dataset: str, target: str | None) -> Cases:
    """Load a dataset with the number that was predicted before; if it has no such number, say so."""
    if target is not None:
        try:
            return catalogue.load(dataset, target)
        except ValueError as error:
            cases = catalogue.load(dataset)
            warn(f"{cases.name} is shown with its own task, {cases.task}: {error}")
            return cases
    return catalogue.load(dataset)


def _models(cases: Cases, chosen: str) -> list[str]:
    """Models for these cases, the chosen one first."""
    segments = cases.task == "segmentation"
    return list(
        dict.fromkeys([chosen, *(name for name in MODELS if name != "timm" and (name in SEGMENTING) == segments)])
    )


def _default_model(cases: Cases) -> str:
    """The model of an experiment on these cases that names none."""
    return SEGMENTING[0] if cases.task == "segmentation" else "small_cnn"


def _site_columns(cases: Cases) -> list[str]:
    """Columns of the table that name sites."""
    return [name for name in SITE_COLUMNS if name in cases.table and cases.table[name].nunique() > 1]


def _complete(start: dict[str, Any]) -> dict[str, Any]:
    """Add the defaults of all arguments to the start, in the order of the panel; those without a control come last."""
    defaults = signature()
    for name in start:
        if name not in defaults:
            raise TypeError(f"partition has no axis or argument {name!r}: {nearest(name, defaults)}")
    order = dict.fromkeys(name for name in ("sites", *axes(), "unseen", "seed", *defaults) if name in defaults)
    return {name: plain((defaults | start)[name]) for name in order}
