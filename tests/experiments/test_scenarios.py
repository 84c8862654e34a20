"""Named scenarios: files that papermill reads and that an experiment takes."""

import pytest
import yaml

import fedlab


def test_a_file_for_papermill_is_what_the_scenario_sets():
    assert len(fedlab.SCENARIOS) >= 6
    for name, meaning in fedlab.SCENARIOS.items():
        found = yaml.safe_load(fedlab.SCENARIOS.path(name).read_text(encoding="utf-8"))
        assert found == fedlab.SCENARIOS.fields(name) and set(found) == {"sites", "unseen", *fedlab.AXES}
        assert meaning.endswith(".") and f"{name} " in repr(fedlab.SCENARIOS)
        kept = {field: getattr(fedlab.Experiment(**found), field) for field in found}
        assert kept == found


def test_a_misspelt_scenario_is_refused_with_the_nearest():
    with pytest.raises(ValueError, match="did you mean 'one_old_scanner'"):
        fedlab.SCENARIOS.fields("one_old_scaner")
