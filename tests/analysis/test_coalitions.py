"""Laws of contributions, on value functions made by hand and on one small federation."""

from itertools import permutations

import numpy as np
import pytest

import fedlab
from fedlab.analysis.joining.coalitions import coalitions, shapley_values
from fedlab.core.rng import stream

PLAYERS = list("abcde")


def game(seed, players=PLAYERS):
    rng = stream(seed, "game")
    return {who: rng.normal() for who in [frozenset(), *coalitions(players)]}


def test_values_sum_to_what_all_add_to_none():
    for seed in range(5):
        values = game(seed)
        assert sum(shapley_values(values, PLAYERS).values()) == pytest.approx(
            values[frozenset(PLAYERS)] - values[frozenset()], abs=1e-12
        )


def test_they_are_the_mean_over_all_orders_of_joining():
    values, orders = game(0), list(permutations(PLAYERS))
    found = shapley_values(values, PLAYERS)
    for player in PLAYERS:
        before = [frozenset(order[: order.index(player)]) for order in orders]
        assert found[player] == pytest.approx(np.mean([values[who | {player}] - values[who] for who in before]))


def test_equal_players_have_equal_values_and_one_that_changes_nothing_has_none():
    base = game(1, list("abc"))
    worth = {who: base[frozenset(who & set("abc"))] + len(who & set("de")) ** 2 for who in game(0)}
    found = shapley_values(worth, PLAYERS)
    assert found["d"] == pytest.approx(found["e"], abs=1e-12)
    null = {who: base[frozenset(who & set("abc"))] for who in game(0)}
    assert shapley_values(null, PLAYERS)["d"] == pytest.approx(0, abs=1e-12)
    three = shapley_values(base, list("abc"))
    assert all(shapley_values(null, PLAYERS)[p] == pytest.approx(three[p], abs=1e-12) for p in "abc")


def test_values_follow_the_names_of_players_in_any_order():
    values, other = game(0), dict(zip(PLAYERS, "ecabd", strict=True))
    renamed = {frozenset(other[player] for player in who): worth for who, worth in values.items()}
    found, again = shapley_values(values, PLAYERS), shapley_values(renamed, sorted(PLAYERS, reverse=True))
    assert all(again[other[player]] == pytest.approx(found[player], abs=1e-12) for player in PLAYERS)


def test_values_are_linear_and_may_be_arrays():
    one, two = game(2), game(3)
    both = shapley_values({who: np.array([one[who], two[who], one[who] + 2 * two[who]]) for who in one}, PLAYERS)
    for player, value in both.items():
        assert value[0] == pytest.approx(shapley_values(one, PLAYERS)[player], abs=1e-12)
        assert value[2] == pytest.approx(value[0] + 2 * value[1], abs=1e-12)


@pytest.mark.filterwarnings("ignore")
def test_a_federation_is_judged_on_the_validation_cases_of_all_sites(tmp_path):
    base = fedlab.Experiment(dataset="phantoms(cases=200, size=16)", sites=3, model="logistic", rounds=1, device="cpu")
    table = fedlab.contributions(base, seed=[0], metric="brier", folder=tmp_path, draws=50)
    row, values = table.iloc[0], table.attrs["values"]
    assert len(values) == 8 and table["shapley"].sum() == pytest.approx(row["worth"] - row["nothing"], abs=1e-12)
    (run,) = fedlab.grid(base, folder=tmp_path, seed=[0])
    at = run.predictions.query("choice == 'last' and split == 'val'")
    brier = ((at["p1"] - at["label"]) ** 2).groupby(at["site"]).mean().mean()
    assert row["worth"] == pytest.approx(-brier, abs=1e-12)
    left = {site: " + ".join(other for other in table["site"] if other != site) for site in table["site"]}
    for each in table.itertuples():
        assert each.leave_one_out == pytest.approx(row["worth"] - values[left[each.site]], abs=1e-12)
        assert each.low < each.leave_one_out < each.high and each.shapley_low < each.shapley < each.shapley_high
    few = fedlab.contributions(base, seed=[0], metric="brier", folder=tmp_path, shapley=False, draws=50)
    assert few["shapley"].isna().all() and list(few["leave_one_out"]) == list(table["leave_one_out"])
    for changes, match in (
        ({"sites": 7}, "at most"),
        ({"sites": 1}, "need two"),
        ({"method": "local"}, "shared model"),
    ):
        with pytest.raises(ValueError, match=match):
            fedlab.contributions(base.with_(**changes), seed=[0], shapley=True, folder=tmp_path)
