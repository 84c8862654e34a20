"""Participation: sampling schemes, absence, partial work and dropout, which are recorded, never silently averaged."""

import numpy as np
import pytest
import torch
from worlds import at_sites, ends, error, federation, last, partition, same

import fedlab
from fedlab.federation.participation import SCHEMES, Participation, all_sites, straggling

NAMES = ("Site A", "Site B", "Site C", "Site D", "Site E")
SHARES = np.array([0.1, 0.3, 0.2, 0.25, 0.15])


def participation(**rule) -> Participation:
    return Participation(NAMES, SHARES, rule.pop("seed", 0), **rule)


def test_by_default_all_sites_take_part():
    assert participation().complete and participation().at(3) == all_sites(5)
    assert all_sites(5).available == all_sites(5).reporting == (0, 1, 2, 3, 4)


@pytest.mark.parametrize("scheme", ["sample(0.4)", "unbiased(0.4)", "by_size(0.4)"])
def test_participation_is_a_pure_function_of_seed_round_and_site(scheme):
    rule = {"participation": scheme, "availability": 0.7, "stragglers": 0.3, "failures": 0.2}
    a, b = participation(**rule), participation(**rule)
    assert [a.at(r).available for r in range(1, 9)] == [b.at(r).available for r in range(8, 0, -1)][::-1]
    assert [a.at(r).available for r in range(1, 9)] != [
        participation(seed=1, **rule).at(r).available for r in range(1, 9)
    ]


@pytest.mark.parametrize("scheme", ["sample(0.4)", "by_size(0.6)"])
def test_the_order_of_sites_does_not_decide_which_are_sampled(scheme):
    order = [3, 0, 4, 2, 1]
    other = Participation(tuple(NAMES[k] for k in order), SHARES[order], 0, scheme, 0.6, 0.2, 0.2)
    first = participation(participation=scheme, availability=0.6, stragglers=0.2, failures=0.2)
    for r in range(1, 12):
        named = {NAMES[k] for k in first.at(r).reporting}
        assert named == {other.names[k] for k in other.at(r).reporting}


def test_sampling_draws_as_many_as_it_says_all_alike():
    rule = participation(participation="sample(0.4)")
    drawn = [rule.at(r).available for r in range(1, 801)]
    assert {len(each) for each in drawn} == {2}
    often = np.bincount(np.concatenate(drawn), minlength=5) / 800
    assert np.abs(often - 0.4).max() < 0.065  # four standard errors, rounded
    assert len(participation(participation="sample(0.01)").at(1).available) == 1  # never nobody


def test_drawing_by_size_is_with_replacement_and_by_size():
    rule = participation(participation="by_size(1.0)")
    drawn = [rule.at(r).sampled for r in range(1, 801)]
    assert {sum(each.values()) for each in drawn} == {5} and any(max(each.values()) > 1 for each in drawn)
    total = sum(np.bincount(list(each), list(each.values()), 5) for each in drawn)
    assert np.abs(total / total.sum() - SHARES).max() < 0.03  # four standard errors, rounded


def test_weights_are_renormalised_over_reporting_sites():
    rule = participation(participation="sample(0.6)")
    present = rule.at(2)
    found = rule.weights(present, present.reporting, SHARES)
    assert abs(found.sum() - 1) < 1e-12
    assert np.allclose(found / found[0], SHARES[list(present.reporting)] / SHARES[present.reporting[0]])


def test_draws_by_size_count_alike():
    rule = participation(participation="by_size(1.0)")
    present = rule.at(1)
    found = rule.weights(present, present.reporting, SHARES)
    assert np.allclose(found, [present.sampled[k] / 5 for k in present.reporting])


FAULTS = [{}, {"availability": [0.9, 0.5, 1.0, 0.7, 0.8], "failures": 0.2, "stragglers": "drop(0.2)"}]


def coefficients(rule: Participation, rounds: int) -> np.ndarray:
    """The coefficient of every site's update in every round, (rounds, K); 0 where a site does not report."""
    found = np.zeros((rounds, len(NAMES)))
    for number, row in enumerate(found, 1):
        present = rule.at(number)
        row[list(present.reporting)] = rule.weights(present, present.reporting, SHARES)
    return found


def deviations(values: np.ndarray) -> np.ndarray:
    """How many standard errors the means over rounds are away from 1."""
    return np.abs(values.mean(axis=0) - 1) / (values.std(axis=0) / np.sqrt(len(values)) + 1e-12)


@pytest.mark.parametrize("faults", FAULTS)
def test_unbiased_sampling_is_unbiased(faults):
    """Horvitz-Thompson: the expected coefficient of each site is its share, also with faults."""
    found = coefficients(participation(participation="unbiased(0.4)", **faults), 1000) / SHARES
    assert (deviations(found) < 4).all()
    assert deviations(found.mean(axis=1, keepdims=True)) < 4  # of all sites together, which sees smaller errors
    biased = coefficients(participation(participation="sample(0.4)", **faults), 1000) / SHARES
    assert (deviations(biased) > 4).any()


def test_sites_are_absent_as_often_as_they_say():
    rule = participation(availability=[1.0, 0.0, 0.5, 0.9, 0.2])
    there = np.zeros(5)
    for r in range(1, 801):
        there[list(rule.at(r).available)] += 1
    assert np.abs(there / 800 - [1, 0, 0.5, 0.9, 0.2]).max() < 0.07  # four standard errors


# -- in training -----------------------------------------------------------------------------------------------------


def test_unbiased_weights_may_exceed_one_and_move_the_model_from_where_it_was():
    """w + sum (p_k / pi_k) (w_k - w), normalisation statistics by shares."""
    a, b = (federation(participation="unbiased(0.5)", rounds=1, precision="float64") for _ in range(2))
    found, s = last("fedavg", a), b.memory(w=b.start)
    (r,) = list(b.rounds(s))
    back = b.fit(b.broadcast(s.w), r)
    c = b.shares[list(back.owners)] / 0.5
    moved = (torch.as_tensor(c)[:, None] * (back.parameters - s.w.parameters)).sum(0)
    assert torch.allclose(found.parameters, s.w.parameters + moved, rtol=0, atol=1e-13)
    mean = (torch.as_tensor(c / c.sum())[:, None] * back.vector).sum(0)[found.layout.trained :]
    assert torch.allclose(found.vector[found.layout.trained :], mean, rtol=0, atol=1e-13)


def test_all_sites_sampled_are_all_sites(precision):
    for scheme in ("sample(1.0)", "unbiased(1.0)"):
        a, b = federation(precision=precision, participation=scheme), federation(precision=precision)
        assert same(last("fedavg", a), last("fedavg", b)), scheme


def test_stragglers_send_what_they_have_done(precision):
    """fedavg with partial work: each straggler's model is the one after its share of steps."""
    changes = {"precision": precision, "rounds": 1, "local_steps": 8}
    a, b = federation(stragglers=0.5, seed=1, **changes), federation(seed=1, **changes)
    found, present = last("fedavg", a), a.schedule.participants
    assert 0 < len(present.work) < 4
    s = b.memory(w=b.start)
    (r,) = list(b.rounds(s))
    sent, models = b.broadcast(s.w), []
    for k in range(4):
        steps = max(1, int(8 * present.work.get(k, 1.0)))
        models.append(b.fit(sent[k], r, at=k, part=(0, steps)))
    from fedlab.core.weights import stack, weighted_mean

    assert same(found, weighted_mean(stack(models), b.shares))
    assert [a.round_log.costs[name].steps for name in a.names] == [
        max(1, int(8 * present.work.get(k, 1.0))) for k in range(4)
    ]


def test_dropped_stragglers_are_as_if_they_had_not_taken_part(precision):
    slow = federation(precision=precision, stragglers="drop(0.5)", rounds=1)
    found = last("fedavg", slow)
    there = [0.0 if k in slow.schedule.participants.late else 1.0 for k in range(4)]
    assert 0 < sum(there) < 4
    assert same(found, last("fedavg", federation(precision=precision, availability=there, rounds=1)))


def test_a_site_that_fails_got_the_model_and_sends_nothing():
    fed = federation(failures=0.5, rounds=4)
    last("fedavg", fed)
    failed = fed.round_log.event_frame().query("event == 'failed'")
    assert len(failed)
    frame = fed.ledger.frame()
    for number, site in zip(failed["round"], failed["site"], strict=True):
        rows = frame[(frame["round"] == number) & (frame["site"] == site)]
        assert rows["direction"].tolist() == ["down"]


def test_every_fault_is_an_event_and_every_event_a_fault(tmp_path):
    rule = {"availability": 0.6, "failures": 0.2, "stragglers": 0.3}
    experiment = fedlab.Experiment(model="small_cnn(width=4, depth=2)", rounds=6, local_steps=4, device="cpu", **rule)
    run = fedlab.run(experiment, partition(), folder=tmp_path)
    fed = federation(rounds=6, **rule)
    events = set(zip(run.events["round"], run.events["site"], run.events["event"], strict=True))
    for number in range(1, 7):
        present = fed.participation.at(number)
        for k, name in enumerate(fed.names):
            kind = (
                "absent"
                if k in present.absent
                else "failed"
                if k in present.failed
                else "straggled"
                if k in present.work
                else ""
            )
            assert ((number, name, kind) in events) == bool(kind)
    straggled = run.events.query("event == 'straggled'")
    assert straggled["detail"].str.match(r"did \d+% of its steps").all()


@pytest.mark.parametrize("method", ["scaffold", "feddyn", "ditto", "moon", "apfl", "pfedme"])
def test_what_a_site_remembers_is_of_the_rounds_in_which_it_took_part(method):
    """A site that is never there keeps what it had at the start; the others' memory moves."""
    fed = federation(rounds=3, availability=[1.0, 1.0, 0.0, 1.0])
    ends(method, fed)
    held = vars(fed.schedule.state)
    kept = {"scaffold": "own", "feddyn": "gone", "ditto": "v", "moon": "previous", "apfl": "v", "pfedme": "theta"}[
        method
    ]
    rows = held[kept] if isinstance(held[kept], torch.Tensor) else held[kept].vector - fed.start.vector
    assert not rows[2].any() and rows[0].any()


def test_local_training_does_not_wait_for_a_federation(precision):
    a, b = federation(precision=precision, availability=0.0), federation(precision=precision)
    for method in ("local", "centralized", "ensemble", "single_pass"):
        first, second = ends(method, a), ends(method, b)
        assert first.keys() == second.keys()
    assert same(last("local", a), last("local", b))


def test_personal_parts_do_not_move_while_their_site_is_away():
    fed = federation(rounds=3, availability=[1.0, 1.0, 0.0, 1.0])
    seen = at_sites("fedper", fed)
    from fedlab.core import stages

    head = stages.head(fed.layout, 1)
    assert torch.equal(seen.vector[2, head], fed.start.vector[head])
    assert not torch.equal(seen.vector[0, head], fed.start.vector[head])


def test_fewer_sites_give_another_model():
    assert error(last("fedavg", federation(participation="sample(0.5)")), last("fedavg", federation())) > 1e-4


@pytest.mark.parametrize(
    "changes,message",
    [
        ({"participation": "sampel(0.3)"}, "did you mean 'sample'"),
        ({"participation": "sample(1.5)"}, "share is 1.5: give a share from 0 to 1"),
        ({"availability": 1.2}, "availability is 1.2"),
        ({"availability": [0.5, -0.1]}, "availability is -0.1"),
        ({"stragglers": 2}, "stragglers is 2"),
        ({"stragglers": "dropp(0.3)"}, "did you mean 'drop'"),
        ({"failures": -0.5}, "failures is -0.5"),
    ],
)
def test_shares_that_make_no_sense_are_refused(changes, message):
    with pytest.raises(ValueError, match=message.replace("(", r"\(")):
        fedlab.Experiment(**changes)


def test_a_list_of_availabilities_has_one_a_site():
    with pytest.raises(
        ValueError, match=r"availability has 2 probabilities for 4 sites.*one for all or one for each site"
    ):
        federation(availability=[0.5, 0.5])


def test_every_scheme_says_in_a_line_what_it_is():
    assert set(SCHEMES) == {"all", "sample", "by_size", "unbiased"} and all(SCHEMES.values())
    assert straggling(0.3) == straggling("partial(0.3)") == (0.3, False) and straggling("drop(0.3)") == (0.3, True)


@pytest.mark.parametrize("method", ["fedbn", "fedper", "lg_fedavg", "fedrep", "splitfed(version=3)", "gossip"])
def test_private_parameters_survive_rounds_without_any_site(method):
    fed = federation(rounds=6, failures=0.5, availability=0.5, batchnorm="fedbn", seed=1)
    rounds = [fed.participation.at(r) for r in range(1, 7)]
    empty = [r for r, each in enumerate(rounds, 1) if not each.available]
    trained = [r for r, each in enumerate(rounds, 1) if each.reporting]
    assert empty and trained and max(empty) > min(trained)  # nobody is there after something stayed
    assert all(bool(torch.isfinite(model.vector).all()) for model in ends(method, fed).values())


def test_a_straggler_stops_at_its_share_of_alternate_batches():
    settings = {"rounds": 1, "local_steps": 8, "stragglers": 1.0}
    fed = federation(**settings)
    work = fed.participation.at(1).work
    ends("split(turns='batch')", fed)
    assert len(work) == 4
    for k, share in work.items():
        assert fed.round_log.costs[fed.names[k]].steps == max(1, int(8 * share))
    crossed = fed.ledger.frame().query("what == 'weights'")
    assert crossed["messages"].sum() <= sum(
        cost.steps for cost in fed.round_log.costs.values()
    )  # none for a step not done


def test_fine_tuning_does_not_wait_for_stragglers():
    """The further steps are those requested, at every site, including those that were slow or absent in the round."""
    fed = federation(rounds=1, local_steps=4, stragglers=1.0, availability=[1.0, 1.0, 0.0, 1.0])
    work = fed.participation.at(1).work
    last("finetune(steps=3)", fed)
    done = {k: fed.round_log.costs[name].steps for k, name in enumerate(fed.names)}
    assert done == {k: 3 if k == 2 else 3 + max(1, int(4 * work[k])) for k in range(4)}


def test_a_loss_is_that_of_the_shared_model():
    """What a site does for itself alone has no place in it: NaN where that was all."""
    changes = {"rounds": 1, "availability": [1.0, 1.0, 0.0, 1.0]}
    tuned, plain = federation(**changes), federation(**changes)
    last("finetune", tuned), last("fedavg", plain)
    assert np.isnan(tuned.round_log.costs["Site C"].loss) and tuned.round_log.costs["Site C"].steps == 3
    assert all(
        tuned.round_log.costs[name].loss == plain.round_log.costs[name].loss for name in ("Site A", "Site B", "Site D")
    )


@pytest.mark.parametrize("method", ["fedbn", "fedper", "splitfed(version=3)"])
def test_the_best_of_what_stays_is_chosen_though_nobody_answered_at_first(method, tmp_path):
    """The first evaluated rounds are those of the start everywhere; later ones are of models in parts."""
    rule = {"availability": 0.2, "seed": 38, "rounds": 6, "local_steps": 2, "device": "cpu"}
    experiment = fedlab.Experiment(model="small_cnn(width=4, depth=2)", method=method, **rule)
    run = fedlab.run(experiment, partition(), folder=tmp_path)
    away = run.events.query("event == 'absent'").groupby("round")["site"].nunique()
    assert away[1] == away[2] == 4 and away.min() < 4
    for choice in ("last", "best"):
        rows = run.predictions[run.predictions["choice"].eq(choice) & run.predictions["split"].eq("test")]
        assert rows.groupby("site")["case"].nunique().tolist() == [8] * 4 and rows["p0"].notna().all()
