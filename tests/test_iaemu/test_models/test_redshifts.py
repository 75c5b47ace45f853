"""Models at several redshifts: tables that are interpolated, and a network with the redshift as an input."""

import numpy as np
import pytest
import torch

import iaemu
from iaemu import BoxError, Emulator, InterpolatedTables, Projection, RedshiftError, VaryingStrengthModel
from iaemu.artifact import ArtifactError
from iaemu.models.redshifts import snapshot_weights
from iaemu.models.tables import TabulatedModel
from iaemu.networks.factorised import FactorisedNet, RadialNet

pytestmark = pytest.mark.filterwarnings("ignore::iaemu.FewPairsWarning")

EDGES = np.geomspace(0.2, 16.0, 8)
STATISTICS = ("xi", "omega", "eta")


@pytest.fixture(scope="module")
def model(snapshots):
    return InterpolatedTables([snapshots[0.6], snapshots[0.0]])


@pytest.fixture(scope="module")
def theta(model):
    points = model.support.sample(40, np.random.default_rng(5))
    return points[np.isfinite(model.at_redshift(0.6).predict(points, EDGES).xi).all(axis=1)][:12]


def with_metadata(tables, **changes):
    return TabulatedModel(tables._tensors, {**tables.metadata, **changes})


# ---------------------------------------------------------------------- tables


def test_at_the_redshift_of_a_file_only_that_file_is_used(model, snapshots, theta):
    for redshift in (0.0, 0.6):
        found, expected = model.at_redshift(redshift), snapshots[redshift]
        assert found.redshift == redshift and found.metadata["catalogues"] == expected.metadata["catalogues"]
        for name in (*STATISTICS, "n_gal", "f_sat"):
            values = (getattr(each.predict(theta, EDGES), name) for each in (found, expected))
            np.testing.assert_array_equal(*values)
    assert model.redshift == 0.0 and model.redshift_range == (0.0, 0.6)
    later = InterpolatedTables([snapshots[0.6], snapshots[0.3]])
    assert later.redshift == 0.3 and later.at_redshift(0.295).redshift == 0.3
    assert model.at_redshift(0.0) is model


def test_what_is_left_out_is_found(model, snapshots, theta):
    """By a fifth or less of the difference between the redshifts on both sides."""
    found, truth = model.at_redshift(0.3).predict(theta, EDGES), snapshots[0.3].predict(theta, EDGES)
    sides = [snapshots[z].predict(theta, EDGES) for z in (0.0, 0.6)]
    for name in (*STATISTICS, "n_gal", "f_sat"):
        error = getattr(found, name) - getattr(truth, name)
        apart = getattr(sides[1], name) - getattr(sides[0], name)
        assert np.sqrt(np.mean(error**2) / np.mean(apart**2)) < 0.2, name
    together = InterpolatedTables(list(snapshots.values())).at_redshift(0.3).predict(theta, EDGES)
    np.testing.assert_array_equal(together.omega, truth.omega)


def test_what_does_not_change_is_the_same_between(snapshots, theta):
    same = InterpolatedTables([snapshots[0.0], with_metadata(snapshots[0.0], redshift=1.0)]).at_redshift(0.37)
    expected = snapshots[0.0]
    for name in STATISTICS:
        values = (getattr(each.predict(theta, EDGES), name) for each in (same, expected))
        np.testing.assert_allclose(*values, rtol=1e-8, atol=1e-12)
    steep = np.concatenate([theta[:2], np.full((2, 2), (0.2, -0.5))], axis=1)
    found, expected = (VaryingStrengthModel(each).predict(steep, EDGES) for each in (same, expected))
    np.testing.assert_allclose(found.eta, expected.eta, rtol=1e-6, atol=1e-9)


def test_weights_are_exact_for_what_is_smooth():
    known, between = np.array([0.0, 0.25, 0.6, 1.0]), np.linspace(0.0, 1.0, 41)
    weights = snapshot_weights(known, between)
    for power in (0, 1, 2):
        np.testing.assert_allclose(weights @ known**power, between**power, atol=1e-14)
    np.testing.assert_allclose(snapshot_weights(known, known), np.eye(4), atol=1e-14)
    np.testing.assert_allclose(snapshot_weights(known[:2], [0.1, 0.25]), [[0.6, 0.4], [0.0, 1.0]])
    assert snapshot_weights([0.3], [0.3]).tolist() == [[1.0]]
    # The derivative has no step where one parabola follows another.
    step = 1e-7
    slopes = [
        np.diff(snapshot_weights(known, at + np.array(ends)), axis=0)
        for at, ends in ((0.25, [-step, 0]), (0.25, [0, step]))
    ]
    np.testing.assert_allclose(slopes[0] / step, slopes[1] / step, atol=1e-5)
    assert np.square(weights).sum(axis=1).max() < 1.05  # noise of single catalogues is hardly amplified


def test_each_point_can_have_its_own_redshift(model, theta):
    redshifts = np.array([0.0, 0.6, 0.3, 0.1])
    together = model.sums(np.column_stack([theta[:4, 2:], redshifts]))
    for row, redshift in enumerate(redshifts):
        alone = model.at_redshift(redshift).sums(theta[[row]])
        for name, value in vars(alone).items():
            torch.testing.assert_close(getattr(together, name)[row], value[0], rtol=1e-9, atol=1e-9)


def test_strengths_at_an_occupation_are_those_of_all_parameters(model, theta):
    for between in (model.at_redshift(0.2), VaryingStrengthModel(model).at_redshift(0.2)):
        point = between.support.sample(1, np.random.default_rng(1))
        point[:, : theta.shape[1]] = theta[0]
        strengths = np.delete(point, slice(2, 7), axis=1)
        fixed, expected = between.at_occupation(point[0, 2:7], EDGES), between.predict(point, EDGES)
        for name in STATISTICS:
            np.testing.assert_allclose(fixed(strengths)[name], getattr(expected, name), rtol=1e-8, atol=1e-13)
        projection = Projection.of([1.0, 4.0, 10.0], 60.0)
        fixed, expected = between.at_occupation(point[0, 2:7], projection), between.project(point, projection)
        np.testing.assert_allclose(fixed(strengths)["omega"], expected.w_gplus, rtol=1e-8)
        np.testing.assert_allclose(fixed(strengths)["xi"], expected.w_gg, rtol=1e-8)


def test_gradients_are_those_of_finite_differences(model, theta):
    between = VaryingStrengthModel(model).at_redshift(0.2)
    point = torch.as_tensor(np.concatenate([theta[0], [0.1, -0.3]])[None]).requires_grad_()
    (gradient,) = torch.autograd.grad(between.predict(point, EDGES).eta.sum(), point)
    for column in (0, 2, 6, 8):  # of each kind of parameter one
        step = torch.zeros_like(point)
        step[0, column] = 1e-5
        up, down = (between.predict(point.detach() + sign * step, EDGES).eta.sum() for sign in (1, -1))
        assert float(gradient[0, column]) == pytest.approx(float(up - down) / 2e-5, rel=1e-3, abs=1e-8)


def test_limited_strengths_are_counted_between_the_redshifts(model):
    point = VaryingStrengthModel(model).support.sample(5, np.random.default_rng(2))
    shares = [VaryingStrengthModel(model).at_redshift(z).clipped_share(point)["centrals"] for z in (0.0, 0.3, 0.6)]
    low, high = np.minimum(shares[0], shares[2]), np.maximum(shares[0], shares[2])
    assert ((shares[1] > low - 1e-3) & (shares[1] < high + 1e-3)).all() and (shares[1] > 0).any()


def test_large_scales_are_those_of_the_redshift(model, theta):
    """The bias is relative to matter at the same redshift, so it grows although xi changes little."""
    projection = Projection.of([1.0, 2.0], 60.0)
    b2 = [float(each.project(theta[0], projection).tail_gg[0]) for each in (model, model.at_redshift(0.6))]
    assert b2[1] != b2[0]
    unknown = with_metadata(model.tables[0], redshift=3.0)
    with pytest.raises(iaemu.binning.BinningError, match=r"at redshift 3, but .* known from 0 to 1\.5"):
        unknown.project(theta[0], projection)
    assert unknown.predict(theta[0]).xi.shape == (len(unknown.nodes) - 1,)


def test_the_box_error_is_that_of_the_catalogues_at_one_redshift(model, snapshots, theta):
    between = model.at_redshift(0.4)
    assert between.box_error is not None and between.n_deviations == 27
    found = between.deviations(theta[:1], EDGES, "xi")["xi"]
    np.testing.assert_array_equal(found, snapshots[0.0].deviations(theta[:1], EDGES, "xi")["xi"])
    without = InterpolatedTables([snapshots[0.3], snapshots[0.6]])
    assert without.box_error is None
    with pytest.raises(ArtifactError, match="hashes differ"):
        without.box_error = BoxError.load()
    own = BoxError(
        BoxError.load()._tensors, {**BoxError.load().metadata, "catalogue_sha256": ["pm160a-z0.3", "pm160b-z0.3"]}
    )
    without.box_error = own
    assert without.at_redshift(0.5).box_error is own


def test_files_are_loaded_together(snapshots, theta, tmp_path):
    path = tmp_path / "tables.safetensors"
    snapshots[0.6].save(path)
    found = iaemu.load(["tables-pm160", path], redshift=0.45)
    expected = InterpolatedTables([snapshots[0.6], snapshots[0.0]], 0.45)
    np.testing.assert_allclose(found.predict(theta[:2]).xi, expected.predict(theta[:2]).xi, rtol=1e-9)
    assert "z = 0.45, from tables at z = 0, 0.6" in repr(found)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"box_sizes": [80.0, 80.0]}, r"do not belong together: boxes of \[80\.0, 80\.0\] and \[160\.0, 160\.0\]"),
        ({"cosmology": "flat LCDM Om0=0.2, z=0.6"}, r"Om0=0\.2 and flat LCDM Om = 0\.30711"),
        ({"redshift": None}, "do not state their redshift"),
        ({"redshift": 0.0}, "must differ in it by 0.01"),
        (
            {"support": iaemu.Support(logMmin=(10.0, 11.0), log_mass_complete=9.0).to_dict()},
            "no supported region in common",
        ),
    ],
)
def test_tables_that_do_not_belong_together_are_refused(snapshots, change, words):
    with pytest.raises(ArtifactError, match=words):
        InterpolatedTables([snapshots[0.0], with_metadata(snapshots[0.6], **change)])


def test_only_tables_are_interpolated(snapshots):
    with pytest.raises(ArtifactError, match=r"holds 'emulator', but 'tables' was asked for"):
        iaemu.load(["tables-pm160", "factorised-pm160"])
    with pytest.raises(ArtifactError, match="at least one file"):
        iaemu.load([])
    fewer = {**snapshots[0.6]._tensors}
    fewer["r_edges"] = fewer["r_edges"] * 1.01
    with pytest.raises(ArtifactError, match="56 and 56 nodes, or others"):
        InterpolatedTables([snapshots[0.0], TabulatedModel(fewer, snapshots[0.6].metadata)])


def test_the_cosmology_is_compared_without_a_redshift_in_its_text(snapshots):
    stated = snapshots[0.0].metadata["cosmology"]
    both = (
        with_metadata(snapshots[0.0], cosmology=f"{stated}, z=0"),
        with_metadata(snapshots[0.6], cosmology=f"{stated}; z = 0.6"),
    )
    assert InterpolatedTables(both).metadata["cosmology"] == stated


# ---------------------------------------------------------------------- all models


@pytest.mark.parametrize("redshift", [0.7, -0.5, None, float("nan"), "0.3", True])
def test_redshifts_are_refused_with_their_range(model, redshift):
    words = "outside 0 to 0.6, the redshifts of the halo catalogues" if redshift in (0.7, -0.5) else "redshift must be"
    with pytest.raises(RedshiftError, match=words):
        model.at_redshift(redshift)


def test_a_model_of_one_redshift_stays_there(snapshots):
    for shipped in (
        iaemu.load("tables-pm160"),
        iaemu.load("iaemunet-pm160"),
        snapshots[0.0],
        VaryingStrengthModel(snapshots[0.0]),
    ):
        assert shipped.redshift == 0.0 and shipped.redshift_range == (0.0, 0.0)
        assert shipped.at_redshift(0.004) is shipped
        with pytest.raises(RedshiftError, match=r"redshift = 0\.27 is outside 0, the redshift of the halo catalogues"):
            shipped.at_redshift(0.27)
    silent = with_metadata(snapshots[0.0], redshift=None)
    assert silent.redshift is None and silent.redshift_range is None
    with pytest.raises(RedshiftError, match="does not state the redshift"):
        silent.at_redshift(0.0)


# ---------------------------------------------------------------------- the network


@pytest.fixture(scope="module")
def emulator(snapshots):
    """Networks with random weights."""
    tables, generator = snapshots[0.0], torch.Generator().manual_seed(3)

    def filled(network):
        with torch.no_grad():
            for weights in network.parameters():
                weights.copy_(0.3 * torch.randn(weights.shape, generator=generator))
        return network

    shape = {"width": 8, "depth": 2, "redshifts": (0.0, 0.6)}
    networks = [filled(FactorisedNet(tables.support, len(tables.nodes) - 1, **shape)) for _ in range(2)]
    radial = filled(RadialNet(tables.support, len(tables.nodes) - 1, 4, **shape))
    radial.profile.copy_(tables.radial.profile)
    radial.basis.copy_(tables.radial.basis)
    radial.components.copy_(0.01 * torch.randn(radial.components.shape, generator=generator))
    known = ("support", "box_volumes", "box_sizes", "cosmology")
    metadata = {name: tables.metadata[name] for name in known} | {
        "snapshots": InterpolatedTables([snapshots[z] for z in (0.0, 0.6)]).metadata["snapshots"]
    }
    return Emulator(networks[0], tables.nodes, metadata, networks[1:], radial=radial)


def test_the_redshift_is_folded_into_the_first_layer(emulator, theta):
    general, members, radial = emulator._stored
    moved = emulator.at_redshift(0.25)
    occupation = torch.as_tensor(theta[:, 2:])
    with_redshift = torch.cat([occupation, torch.full((len(theta), 1), 0.25).double()], dim=1)
    for folded, stored in ((moved.network, general), (moved.members[0], members[0]), (moved.radial, radial)):
        torch.testing.assert_close(folded(occupation), stored(with_redshift), rtol=1e-5, atol=1e-5)
        assert folded.inputs(occupation).shape[1] == 5 and stored.inputs(with_redshift).shape[1] == 6
    ends = general.inputs(torch.tensor([[13.0, 0.4, 13.0, 14.0, 1.0, z] for z in (0.0, 0.6)], dtype=torch.float64))
    torch.testing.assert_close(ends[:, -1], torch.tensor([-1.0, 1.0], dtype=torch.float64))
    assert emulator.redshift == 0.0 and moved.redshift == 0.25
    assert not np.allclose(moved.predict(theta, EDGES).xi, emulator.predict(theta, EDGES).xi, rtol=1e-3)


def test_the_file_holds_all_redshifts(emulator, theta, tmp_path):
    path = tmp_path / "emulator.safetensors"
    emulator.at_redshift(0.25).save(path)
    found = iaemu.load(path)
    assert found.redshift == 0.25 and found.redshift_range == (0.0, 0.6)
    for redshift in (0.25, 0.0, 0.6):
        one, other = (
            each.at_redshift(redshift).predict(theta, EDGES, uncertainties=True) for each in (found, emulator)
        )
        np.testing.assert_array_equal(one.omega, other.omega)
        np.testing.assert_array_equal(one.sigma_epistemic["eta"], other.sigma_epistemic["eta"])
    steep = np.concatenate([theta, np.full((len(theta), 1), -0.4)], axis=1)
    one, other = (VaryingStrengthModel(each).at_redshift(0.5).predict(steep).eta for each in (found, emulator))
    np.testing.assert_array_equal(one, other)
    assert found.at_redshift(0.5).metadata["catalogues"] == ["pm160a-z0.6", "pm160b-z0.6"]
    assert found.at_redshift(0.5).box_error is not None  # that of z = 0


def test_ranges_of_networks_are_checked(snapshots):
    support = snapshots[0.0].support
    for redshifts, words in (((0.6, 0.0), "lower end first"), ((0.0, float("inf")), "redshifts of a network")):
        with pytest.raises(ValueError, match=words):
            FactorisedNet(support, 3, 4, 1, redshifts=redshifts)
