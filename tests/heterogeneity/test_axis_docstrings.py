"""Every axis and scheme documents its arguments."""

import inspect

import pytest

from fedlab.heterogeneity.acquisition import presets
from fedlab.heterogeneity.annotation import POLICIES
from fedlab.heterogeneity.axes import AXES
from fedlab.heterogeneity.geography import SCHEMES as GEOGRAPHY
from fedlab.heterogeneity.population import SCHEMES as POPULATION
from fedlab.heterogeneity.presentation import SCHEMES as PRESENTATION
from fedlab.heterogeneity.prevalence import SCHEMES as PREVALENCE
from fedlab.heterogeneity.quantity import SIZES

REGISTRIES = [AXES, SIZES, PREVALENCE, PRESENTATION, POPULATION, POLICIES, GEOGRAPHY]
ENTRIES = [(registry, name) for registry in REGISTRIES for name in registry]


@pytest.mark.parametrize(("registry", "name"), ENTRIES, ids=[f"{registry.kind}: {name}" for registry, name in ENTRIES])
def test_every_axis_and_scheme_has_parameters_and_an_example(registry, name):
    doc = inspect.getdoc(registry.function(name)) or ""
    assert "\nParameters\n-" in doc and "\nExamples\n-" in doc and len(registry[name]) > 20
    for parameter in inspect.signature(registry.function(name)).parameters:
        assert parameter in doc


def test_every_modality_describes_its_arguments():
    for name in presets.SCHEMES:
        assert "\nParameters\n-" in (inspect.getdoc(presets.SCHEMES.function(name)) or ""), name
