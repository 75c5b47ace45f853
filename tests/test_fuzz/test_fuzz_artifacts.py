"""Artifacts with something wrong in them: files cut or changed, and files sealed anew with other numbers in them."""

import json

import numpy as np
import pytest
import torch
from fuzzing import _pick, awkward_number, awkward_tensor, spoilt_bytes
from safetensors.numpy import save

import iaemu
from iaemu.artifact import ArtifactError, _digest, read_artifact, shipped_artifact
from iaemu.models.box_error import BoxError
from iaemu.models.tables import TabulatedModel
from iaemu.networks.aleatoric import Aleatoric, AleatoricNet
from iaemu.networks.factorised import FactorisedNet
from iaemu.packing import pack_symmetric
from iaemu.parameters import Support

N_MODES, N_MASSES, N_BINS = (5, 4), 12, 8


def small_emulator(path):
    """Of three small networks, with numbers of a trained one where these have a scale."""
    generator = torch.Generator().manual_seed(3)
    shipped = iaemu.load()
    nodes = shipped.nodes

    def filled(module):
        for name, value in module.state_dict().items():
            if name not in ("line_slope", "line_intercept", "half_width", "output_mean", "output_std"):
                value.copy_(torch.randn(value.shape, generator=generator, dtype=value.dtype) * 0.3)
        return module

    networks = [filled(FactorisedNet(shipped.support, len(nodes) - 1, width=8, depth=2)) for _ in range(3)]
    for network in networks:
        network.output_mean.copy_(shipped.network.output_mean)
        network.output_std.copy_(0.1 * shipped.network.output_std)
    scatter = filled(AleatoricNet(shipped.aleatoric.network.n_bins, width=6, depth=1, n_members=2))
    kept = ("support", "box_volumes", "box_sizes", "catalogue_sha256", "catalogues", "epistemic_scale")
    metadata = {name: shipped.metadata[name] for name in kept} | {"history": [{"epoch": 0}]}
    aleatoric = Aleatoric(scatter, shipped.aleatoric.r_edges, shipped.aleatoric.correlations, shipped.aleatoric.volume)
    iaemu.Emulator(networks[0], nodes, metadata, networks[1:], aleatoric).save(path)


def small_tables(path):
    """The shipped tables with few modes and few masses: no physics, but all of the arithmetic."""
    tensors, metadata = read_artifact("tables-pm160", "tables")
    whole = TabulatedModel.load()
    n_c = tensors["central_modes"].shape[1]
    modes = [*range(N_MODES[0]), *range(n_c, n_c + N_MODES[1])]
    two_halo = whole._two_halo[:, :N_BINS][..., modes, :][..., modes].numpy()
    partners = [0, 1, sum(tensors["ranks.n_partners"][:1]), sum(tensors["ranks.n_partners"]) - 1]
    columns = [0, 1, 2, tensors["ranks.values"].shape[1] - 1]
    few = {}
    for part in ("one_halo", "ranks"):
        n_rows = tensors[f"{part}.n_rows"][-N_MASSES:]
        few |= {f"{part}.log_mass": tensors[f"{part}.log_mass"][-N_MASSES:], f"{part}.n_rows": n_rows}
    n_bins = np.minimum(tensors["one_halo.n_bins"][-few["one_halo.n_rows"].sum() :], N_BINS)
    tensors |= few | {
        "r_edges": tensors["r_edges"][: N_BINS + 1],
        "central_modes": tensors["central_modes"][:, : N_MODES[0]].copy(),
        "satellite_modes": tensors["satellite_modes"][:, : N_MODES[1]].copy(),
        "two_halo_DD": pack_symmetric(two_halo[0]),
        "two_halo_S_omega": two_halo[1].copy(),
        "two_halo_S_eta": pack_symmetric(two_halo[2]),
        "one_halo.values": np.random.default_rng(2).uniform(1, 2, (int(n_bins.sum()), 6)).astype(np.float32),
        "one_halo.n_bins": n_bins,
        "ranks.values": tensors["ranks.values"][-few["ranks.n_rows"].sum() :, columns].copy(),
        "ranks.response": tensors["ranks.response"][:3][:, :, partners, :N_BINS].copy(),
        "ranks.n_partners": np.array([2, 1, 1], dtype=np.int32),
    }
    tensors = {name: value for name, value in tensors.items() if not name.startswith("radial.")}
    TabulatedModel(tensors, metadata, path).save(path)


def small_box_error(path):
    """The shipped one in few of its bins."""
    tensors, metadata = read_artifact("box-error-pm160", BoxError.kind)
    tensors["r_edges"] = tensors["r_edges"][:7]
    tensors = {name: value[..., :6].copy() if name.startswith("sums") else value for name, value in tensors.items()}
    BoxError(tensors, metadata).save(path)


def results(model):
    """What all of a file has its part in."""
    if isinstance(model, BoxError):
        support = Support.from_dict(model.metadata["support"])
        theta = support.sample(20, np.random.default_rng(5))[:, 2:]
        return [value.numpy() for value in model.deviations(theta).values()]
    theta = model.support.sample(20, np.random.default_rng(5))
    found = []
    for edges in (model.nodes, model.nodes[::2], [0.11, 0.15, 0.21]):
        if isinstance(model, iaemu.IAEmuNetEmulator) and len(edges) < 21:
            continue
        options = {"n_passes": 3} if isinstance(model, iaemu.IAEmuNetEmulator) else {}
        prediction = model.predict(theta, edges, uncertainties=model.has_uncertainties, **options)
        found += [prediction.xi, prediction.omega, prediction.eta, prediction.n_gal, prediction.f_sat]
        found += [*(prediction.sigma_aleatoric or {}).values(), *(prediction.sigma_epistemic or {}).values()]
    return [value for value in found if value is not None]


def same(found, expected) -> bool:
    """To well above what golden predictions are compared to, at other points than theirs."""
    return len(found) == len(expected) and all(
        a.shape == b.shape and np.allclose(a, b, rtol=0.01, atol=0.003 * np.abs(b).max())
        for a, b in zip(found, expected, strict=True)
    )


MAKERS = {"emulator": small_emulator, "tables": small_tables, BoxError.kind: small_box_error, "iaemunet-emulator": None}


@pytest.fixture(scope="module", params=MAKERS)
def artifact(request, tmp_path_factory):
    """Kind, path of a good file, how it is loaded, and what comes out."""
    kind, path = request.param, tmp_path_factory.mktemp("artifact") / "good.safetensors"
    if MAKERS[kind] is None:
        path = shipped_artifact("iaemunet-pm160.safetensors")
    else:
        MAKERS[kind](path)
    load = BoxError.load if kind == BoxError.kind else iaemu.load
    return kind, path, load, results(load(path))


def number_of_inputs(kind, n):
    return n // 10 if kind == "iaemunet-emulator" else n


def test_spoilt_files(fuzz, artifact, tmp_path):
    kind, good, load, expected = artifact
    content, path = good.read_bytes(), tmp_path / "spoilt.safetensors"
    header = 8 + int.from_bytes(content[:8], "little")

    def make(rng):
        return spoilt_bytes(rng, content, _pick(rng, [8, 200, header, header, None]))

    def call(spoilt):
        path.write_bytes(spoilt)
        return results(load(path)) if spoilt != content else expected

    fuzz(
        f"load a spoilt file, {kind}",
        number_of_inputs(kind, 1500),
        make,
        call,
        ArtifactError,
        lambda r: same(r, expected),
    )
    fuzz(
        f"read_artifact, {kind}",
        number_of_inputs(kind, 1500),
        lambda rng: spoilt_bytes(rng, content, _pick(rng, [8, 200, header])),
        lambda spoilt: (path.write_bytes(spoilt), read_artifact(path, kind)) if spoilt != content else None,
        ArtifactError,
    )


def test_altered_files_that_are_sealed_anew(fuzz, artifact, tmp_path):
    kind, good, load, expected = artifact
    path = tmp_path / "altered.safetensors"
    tensors, metadata = read_artifact(good, kind)

    def make(rng):
        if rng.integers(3):
            return altered_tensors(rng, tensors), metadata
        return tensors, altered_metadata(rng, metadata)

    def call(altered):
        text = json.dumps(altered[1])
        arrays = {name: np.ascontiguousarray(value) for name, value in altered[0].items()}
        path.write_bytes(save(arrays, metadata={"iaemu": text, "sha256": _digest(text, arrays)}))
        return results(load(path))

    n = number_of_inputs(kind, 2500)
    fuzz(f"load an altered file, {kind}", n, make, call, ArtifactError, lambda found: same(found, expected))


def altered_tensors(rng, tensors: dict) -> dict:
    tensors = dict(tensors)
    name = _pick(rng, list(tensors))
    value = tensors[name]
    place = tuple(int(rng.integers(size)) for size in value.shape)
    action = rng.integers(12)
    if action < 4:
        value = value.copy()
        value[place] = value[place] * 3 + value.dtype.type(1)
        tensors[name] = value
    elif action == 4:
        tensors[name] = (value * 1.1).astype(value.dtype) + (value.dtype.kind in "iu")
    elif action == 5:
        value = value.copy()
        value[place] = _pick(rng, [np.nan, np.inf]) if value.dtype.kind == "f" else _pick(rng, [-1, 2**15 - 1])
        tensors[name] = value
    elif action == 6:
        del tensors[name]
    elif action == 7:
        tensors[_pick(rng, ["x", "", f"{name}x", name.upper()])] = value
    elif action == 8:
        other = _pick(rng, list(tensors))
        tensors[name], tensors[other] = tensors[other], tensors[name]
    elif action == 9:
        tensors[name] = _pick(rng, [value[:0], value[:-1], value.T, value.reshape(-1), value[None], value[..., None]])
    elif action == 10:
        tensors[name] = value.astype(_pick(rng, [np.float16, np.int8, bool, np.uint64, np.float32]))
    else:
        tensors[name] = rng.permutation(value)
    return tensors


def altered_metadata(rng, metadata: dict) -> dict:
    metadata = json.loads(json.dumps(metadata))
    inside = metadata
    while True:
        name = _pick(rng, list(inside))
        if not (isinstance(inside[name], dict) and inside[name]) or rng.integers(4) == 0:
            break
        inside = inside[name]
    odd = [None, [], {}, "", "x", -1, 0, 1, 2, 10**30, 1e300, -1.5, float("nan"), float("inf"), True, [1, 2], [[1], 2]]
    if rng.integers(4) == 0:
        del inside[name]
    else:
        inside[name] = _pick(rng, [*odd, "emulator", "tables", inside])
        if inside[name] is inside:
            inside[name] = json.loads(json.dumps({key: value for key, value in inside.items() if key != name}))
    return metadata


def test_whatever_is_given_for_a_path(fuzz):
    def make(rng):
        return _pick(rng, [awkward_number, lambda rng: awkward_tensor(rng, np.ones(3)), _odd_path])(rng)

    fuzz("iaemu.load of a path", 1500, make, lambda path: iaemu.load(path) if path is not None else None, ArtifactError)


def _odd_path(rng):
    return _pick(
        rng, ["/", ".", "/dev/null", "/dev/zero", "/proc/self/mem", "a" * 300, "a/" * 3000, "x\0y", "\ud800", "~"]
    )
