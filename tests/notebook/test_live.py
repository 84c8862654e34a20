"""The live figure: one display, few redraws, a correct line of progress, and no error that stops training."""

import threading
from base64 import b64decode
from types import SimpleNamespace

import ipywidgets
import nbformat
import pandas as pd
import pytest
from nbclient import NotebookClient
from widget_state import errors, states

import fedlab
from fedlab.engine.devices import duration
from fedlab.notebook import live
from fedlab.notebook.live import Live, Screen
from fedlab.plots import style


class Timer:
    """A time that tests set."""

    def __init__(self) -> None:
        self.now = 0.0

    def perf_counter(self) -> float:
        return self.now


@pytest.fixture
def timer(monkeypatch) -> Timer:
    found = Timer()
    monkeypatch.setattr(live, "time", found)
    return found


@pytest.fixture
def text_only(monkeypatch) -> None:
    """Leave out the picture, which takes most of the time."""
    monkeypatch.setattr(Live, "_figure", lambda self: None)
    monkeypatch.setattr(live, "picture", lambda figure, text: ({"text/plain": text}, {}))


@pytest.fixture
def notebook(monkeypatch) -> SimpleNamespace:
    """A kernel that records what it displays."""
    screen = SimpleNamespace(displays=[], updates=[])
    handle = SimpleNamespace(update=lambda content, **how: screen.updates.append(content))

    def display(content, raw, metadata, display_id):
        assert raw and display_id is True
        screen.displays.append(content)
        return handle

    monkeypatch.setattr(live, "in_notebook", lambda: True)
    monkeypatch.setattr("IPython.display.display", display)
    return screen


def rounds(until: int, value: float = 0.5) -> pd.DataFrame:
    """Rounds as a run records them: two sites that end at value -+ 0.1."""
    rows = [
        {
            "round": r,
            "model": "global",
            "site": site,
            "split": "val",
            "metric": metric,
            "value": value + shift + r / 100,
        }
        for r in range(1, until + 1)
        for site, shift in (("Site A", -0.1), ("Site B", 0.1))
        for metric in ("auroc", "accuracy")
    ]
    return pd.DataFrame(rows)


def test_there_is_one_display_and_its_last_state_is_the_final_one(timer, notebook):
    screen = Live(3, "fedavg on phantoms")
    for r in (1, 2, 3):
        timer.now += 2
        screen.update(rounds(r), r)
    screen.close()
    screen.close()
    assert len(notebook.displays) == 1
    assert len(notebook.updates) == 3
    assert b64decode(notebook.updates[-1]["image/png"]).startswith(b"\x89PNG")
    assert notebook.updates[-1]["text/plain"] == (
        "fedavg on phantoms: round 3 of 3, 2 s a round, validation AUROC 0.530 (mean over sites)"
    )


def test_redraws_are_at_most_two_a_second_and_a_small_share_of_the_time(timer, monkeypatch):
    monkeypatch.setattr(live, "in_notebook", lambda: False)
    shown, frame = [], rounds(1)
    monkeypatch.setattr(Live, "progress", lambda self, width: shown.append(timer.now) or "")
    screen = Live(1000, "fast")
    for r in range(1, 1001):
        timer.now += 0.01
        screen.update(frame, r)
    assert 18 <= len(shown) <= 21  # ten seconds

    def slow(self, width: int) -> str:
        shown.append(timer.now)
        timer.now += 0.2
        return ""

    monkeypatch.setattr(Live, "progress", slow)
    shown.clear()
    start = timer.now
    screen = Live(1000, "slow to draw")
    for r in range(1, 1001):
        timer.now += 0.02
        screen.update(frame, r)
    assert 0.2 * len(shown) <= 0.06 * (timer.now - start) + 0.2


def test_fast_training_leaves_the_last_round_on_the_one_display(timer, notebook, text_only):
    screen = Live(50, "fedavg")
    for r in range(1, 51):
        timer.now += 0.001
        screen.update(rounds(1), r)
    screen.close()
    assert (len(notebook.displays), len(notebook.updates)) == (1, 1)
    assert "round 50 of 50" in notebook.updates[0]["text/plain"]


def test_a_run_that_ends_at_once_is_drawn_once(timer, notebook, text_only):
    screen = Live(1, "")
    screen.restart(3, "fedavg")
    for r in (1, 2, 3):
        timer.now += 0.1
        screen.update(rounds(r), r)
    screen.close()
    assert "starting" in notebook.displays[0]["text/plain"]
    (last,) = notebook.updates
    assert "round 3 of 3" in last["text/plain"]


@pytest.mark.parametrize(("spent", "most"), [(0.0, 25), (0.4, 2)])  # two a second, or a twentieth of the time
def test_a_grid_of_quick_runs_is_redrawn_no_more_often_than_one_run(timer, notebook, monkeypatch, spent, most):
    shown = []

    def picture(figure, text):
        shown.append(timer.now)
        timer.now += spent
        return {"text/plain": text}, {}

    monkeypatch.setattr(Live, "_figure", lambda self: None)
    monkeypatch.setattr(live, "picture", picture)
    screen = Live(1, "")
    screen.plan([2] * 100)
    for number in range(100):
        screen.restart(2, f"method {number}")
        for r in (1, 2):
            timer.now += 0.0625
            screen.update(rounds(1), r)
        screen.close()
    assert most - 1 <= len(shown) <= most  # 12.5 seconds of training
    screen.conclude("100 runs")
    assert notebook.updates[-1]["text/plain"] == "100 runs"


def test_a_run_of_a_grid_that_stopped_early_is_shown_at_once(timer, notebook, text_only):
    screen = Live(1, "")
    screen.plan([20, 20])
    screen.restart(20, "fedavg")
    timer.now += 0.01
    screen.update(rounds(7), 7)
    screen.close()
    assert "ended after round 7 of 20" in notebook.updates[-1]["text/plain"]


def test_time_left_is_measured_without_what_came_before_the_first_round(timer):
    screen = Live(10, "fedavg")
    timer.now = 60  # loading
    screen.update(rounds(1), 1)
    assert screen.pace == 60
    for r in (2, 3, 4):
        timer.now += 3
        screen.update(rounds(r), r)
    assert screen.pace == pytest.approx(3)
    assert screen.progress().startswith("round 4 of 10, 3 s a round, about 18 s left, validation AUROC 0.540")


def test_a_resumed_run_knows_its_pace_from_its_second_round_on(timer):
    screen = Live(20, "fedavg")
    timer.now = 30
    screen.update(rounds(1), 13)
    assert screen.pace is None
    assert screen.progress().startswith("round 13 of 20, validation")
    timer.now = 34
    screen.update(rounds(1), 14)
    assert screen.pace == 4


def test_a_run_that_stopped_early_is_not_called_finished(timer, notebook, text_only):
    screen = Live(20, "fedavg")
    timer.now = 1
    screen.update(rounds(7), 7)
    screen.close()
    assert "ended after round 7 of 20" in notebook.updates[-1]["text/plain"]
    assert "left" not in notebook.updates[-1]["text/plain"]


def test_the_given_metric_is_shown_and_the_loss_until_there_is_one():
    screen = Live(5, "fedavg", metric="accuracy")
    screen.update(rounds(2, value=0.6), 2)
    assert "validation accuracy 0.620" in screen.progress()
    losses = rounds(1).assign(split="train", metric="loss").drop_duplicates(["round", "site"])
    screen.update(losses, 2)
    assert "training loss 0.510" in screen.progress()


def test_outside_a_notebook_one_line_is_rewritten(timer, capsys):
    screen = Live(2, "fedavg")
    for r in (1, 2):
        timer.now += 1
        screen.update(rounds(r), r)
    screen.close()
    out, err = capsys.readouterr()
    assert out == ""
    assert err.count("\n") == 1 and err.endswith("\n")
    assert len(err.split("\r")) == 4  # two rounds and the end
    assert "round 2 of 2, 1 s a round" in err.split("\r")[-1]


@pytest.mark.parametrize("frame", [pd.DataFrame({"wrong": [1]}), rounds(1).drop(columns="site"), None])
def test_an_error_in_drawing_is_reported_once_and_training_continues(timer, capsys, frame):
    screen = Live(5, "fedavg")
    for r in range(1, 6):
        timer.now += 1
        screen.update(frame, r)
    screen.close()
    assert capsys.readouterr().err.count("the live figure stopped") == 1


def test_a_broken_display_does_not_stop_training_either(timer, capsys, notebook, monkeypatch):
    def fail(*args, **how):
        raise OSError("no screen")

    monkeypatch.setattr("IPython.display.display", fail)
    screen = Live(2, "fedavg")
    screen.update(rounds(1), 1)
    screen.close()
    assert capsys.readouterr().err == "the live figure stopped (OSError('no screen')); training continues\n"


def test_a_run_without_a_round_closes_quietly(timer, notebook, text_only):
    Live(3, "fedavg").close()
    assert "ended after round 0 of 3" in notebook.displays[0]["text/plain"]


# -- images a second, and the device -------------------------------------------------------------------------------


def trained(until: int, samples: tuple[int, int] = (300, 100)) -> pd.DataFrame:
    """The same with images: every row of a site and round repeats its samples; rows of the round itself have none."""
    scores = rounds(until).assign(model="global")
    scores["samples"] = scores["site"].map({"Site A": samples[0], "Site B": samples[1]})
    losses = scores[scores["metric"] == "auroc"].assign(split="train", metric="loss")
    measures = losses[losses["site"] == "Site A"].assign(site="all sites", metric="client drift", samples=0)
    personal = scores.assign(model="Site A's own")
    return pd.concat([losses, measures, scores, personal]).sort_values("round", kind="stable", ignore_index=True)


def followed(timer: Timer, seconds: float, until: int = 3, planned: int = 10, first: int = 1, **how) -> Live:
    """A run that was loaded for a minute and then took so many seconds for every round."""
    screen = Live(planned, "fedavg on phantoms", **how)
    timer.now += 60
    for r in range(first, until + 1):
        screen.update(trained(r), r)
        timer.now += seconds
    return screen


def test_images_a_second_count_each_site_once_and_leave_out_the_first_round(timer):
    screen = followed(timer, 4, until=1, device="cpu")
    assert screen.speed is None
    assert screen.progress().startswith("round 1 of 10, 60 s a round, about 9 min left, on cpu, validation AUROC")
    screen = followed(timer, 4, device="cpu")
    assert screen.speed == pytest.approx(2 * 400 / 8)
    assert screen.progress().startswith("round 3 of 10, 4 s a round, about 28 s left, 100 images/s on cpu, validation")


def test_images_of_rounds_before_an_interruption_do_not_count(timer):
    assert followed(timer, 4, first=6, until=8).speed == pytest.approx(100)


def test_a_centralized_run_has_the_images_of_all_sites_though_measures_bear_the_same_name(timer):
    screen = followed(timer, 2)
    union = screen.frame[screen.frame["metric"] == "client drift"].assign(metric="loss", samples=400)
    screen.frame = pd.concat([union, screen.frame[screen.frame["site"] == "all sites"]])
    assert screen.speed == pytest.approx(200)


def test_another_run_in_the_same_place_has_its_own_speed_and_device(timer):
    screen = followed(timer, 4, device="cpu")
    screen.restart(10, "cyclic on phantoms", "NVIDIA H100 80GB HBM3")
    assert screen.speed is None
    for r in (1, 2):
        screen.update(trained(r), r)
        timer.now += 0.1
    assert ", 4,000 images/s on NVIDIA H100 80GB HBM3, validation" in screen.progress()


@pytest.mark.parametrize(
    ("columns", "line"),
    [
        (60, "fedavg on phantoms: round 13 of 200, validation AUROC 0.630"),
        (80, "fedavg on phantoms: round 13 of 200, about 12 min left, validation AUROC 0.630"),
        (100, "fedavg on phantoms: round 13 of 200, about 12 min left, 100 images/s, validation AUROC 0.630"),
        (
            120,
            "fedavg on phantoms: round 13 of 200, about 12 min left, 100 images/s on NVIDIA H100 80GB HBM3,"
            " validation AUROC 0.630",
        ),
        (
            200,
            "fedavg on phantoms: round 13 of 200, 4 s a round, about 12 min left, 100 images/s on NVIDIA H100 80GB"
            " HBM3, validation AUROC 0.630 (mean over sites)",
        ),
    ],
)
def test_a_narrow_terminal_shows_fewer_things_and_cuts_no_word(columns, line, timer, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", str(columns))
    followed(timer, 4, until=13, planned=200, device="NVIDIA H100 80GB HBM3")
    last = capsys.readouterr().err.split("\r")[-1]
    assert last.rstrip() == line
    assert len(last) == columns - 1


def test_the_line_of_the_figure_fits_its_width(timer, notebook, monkeypatch):
    texts = []
    monkeypatch.setattr(live, "picture", lambda figure, text: (texts.append(figure) or {"text/plain": text}, {}))
    followed(timer, 4, first=11, until=13, planned=200, device="NVIDIA GeForce RTX 4090 Laptop GPU")
    figure = texts[-1]
    figure.draw_without_rendering()
    (line,) = [text for text in figure.axes[0].texts if "round 13 of 200" in text.get_text()]
    assert "100 images/s on NVIDIA GeForce RTX 4090 Laptop GPU" in line.get_text()
    assert line.get_window_extent().x1 <= figure.bbox.x1
    assert "(mean over sites)" in notebook.updates[-1]["text/plain"]


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.0421, "0.042 s"), (9.96, "10 s"), (12.3, "12 s"), (119, "119 s"), (180, "3 min"), (4800, "1 h 20 min")],
)
def test_durations_are_read_as_people_say_them(seconds, text):
    assert duration(seconds) == text


# -- inside Output widgets, and from threads -----------------------------------------------------------------------


def test_a_screen_in_an_output_replaces_what_it_shows_from_any_thread():
    output = ipywidgets.Output()
    screen = Screen(output)
    for number in range(3):
        thread = threading.Thread(target=screen.show, args=({"text/plain": str(number)},))
        thread.start()
        thread.join()
        (one,) = output.outputs
        assert one == {"output_type": "display_data", "data": {"text/plain": str(number)}, "metadata": {}}


def test_a_run_can_be_followed_in_an_output(timer, monkeypatch, text_only):
    monkeypatch.setattr(live, "in_notebook", lambda: True)
    output = ipywidgets.Output()
    screen = Live(2, "fedavg", output=output)
    for r in (1, 2):
        timer.now += 2
        screen.update(rounds(r), r)
        assert f"round {r} of 2" in output.outputs[0]["data"]["text/plain"]
    screen.close()
    screen.conclude("2 runs in 4 s")
    assert [one["data"] for one in output.outputs] == [{"text/plain": "2 runs in 4 s"}]


CELLS = """
import threading
import ipywidgets
import pandas as pd
from fedlab.notebook.live import Live

def follow(rounds):
    screen = Live(rounds, "fedavg")
    for r in range(1, rounds + 1):
        row = {"round": r, "model": "global", "site": "A", "split": "val", "metric": "auroc", "value": 0.5 + r / 100}
        screen.update(pd.DataFrame([row]), r)
    screen.close()
---
follow(3)
---
output = ipywidgets.Output()
with output:
    print("before")
    follow(4)
    print("after")
output
---
threaded = ipywidgets.Output()
def work():
    with threaded:
        follow(5)
thread = threading.Thread(target=work)
thread.start()
thread.join()
threaded
"""


@pytest.mark.xdist_group("notebooks")
def test_in_a_notebook_every_place_ends_with_the_last_round(tmp_path, kernel):
    """In a cell, inside `with output:` and inside one of a thread: one picture, the last state."""
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell) for cell in CELLS.split("---\n")])
    done = NotebookClient(notebook, kernel_name=kernel, resources={"metadata": {"path": str(tmp_path)}}).execute()
    (plain,) = done.cells[1].outputs
    assert "image/png" in plain.data and "round 3 of 3" in plain.data["text/plain"]
    kept = [state for name, state in states(done) if name == "OutputModel"]
    pictures = [one for state in kept for one in state.get("outputs", ()) if "image/png" in one.get("data", {})]
    assert [one["data"]["text/plain"].split(",")[0] for one in pictures] == [
        "fedavg: round 4 of 4", "fedavg: round 5 of 5"
    ]  # fmt: skip
    printed = [one["text"] for state in kept for one in state.get("outputs", ()) if one["output_type"] == "stream"]
    assert "".join(printed).split() == ["before", "after"] and errors(done) == []


# -- a grid --------------------------------------------------------------------------------------------------------


def test_the_line_of_a_grid_has_its_run_and_the_time_of_all_and_the_figure_keeps_each_method(
    timer, notebook, monkeypatch
):
    drawn = []
    monkeypatch.setattr(live, "picture", lambda figure, text: (drawn.append(figure) or {"text/plain": text}, {}))
    screen = Live(1, "")
    screen.plan([4, 4, 8])
    for method in ("local", "fedavg"):
        screen.restart(4, f"{method} on phantoms", "cpu")
        for r in range(1, 5 if method == "local" else 3):
            timer.now += 3
            screen.update(trained(r), r)
    assert screen.progress().startswith(
        "run 2 of 3, round 2 of 4, 3 s a round, about 6 s left, about 30 s for all runs, 133 images/s on cpu"
    )
    assert "run 1 of 3, round 0 of 4" in notebook.displays[0]["text/plain"]  # before the first round
    lines = {line.get_label(): (line.get_color(), line.get_linestyle()) for line in drawn[-1].axes[0].get_lines()}
    assert set(lines) == {"local", "fedavg"} and len(set(lines.values())) == 2
    assert lines["local"][0] == style.GREY != lines["fedavg"][0]


def test_an_observer_without_plan_follows_a_grid(tmp_path):
    """The five methods of the protocol are enough. The first sign comes before a partition is made."""
    seen = []

    class Five:
        def restart(self, rounds, title, device=""):
            seen.append(title)

        def update(self, rounds_frame, round):
            pass

        def close(self, text=""):
            pass

        def tell(self, text):
            seen.append(text)

        conclude = close

    base = fedlab.Experiment(dataset="phantoms(cases=60, size=16)", sites=2, model="logistic", rounds=1)
    fedlab.grid(base, method=["local", "fedavg"], folder=tmp_path, live=Five())
    assert seen[0] == "loading phantoms(cases=60, size=16) and partitioning it: sites=2"
    assert [title.split(" on ")[0] for title in seen[1:]] == ["local", "fedavg"]
