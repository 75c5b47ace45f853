"""Catalogues of ROCKSTAR and consistent-trees: written here in their formats, and read back."""

import bz2
import gzip
import lzma

import numpy as np
import pytest

pytest.importorskip("halotools")

from iaemu_cobaya.commands.door import main as iaemu
from iaemu_training.commands.iaemu_train import main
from iaemu_training.halos.catalogue import CatalogueError, HaloCatalogue
from iaemu_training.mocks.halotools import HalotoolsMocks

# Names in the order of files made by consistent-trees 1.01 and by ROCKSTAR 0.99.9 with find_parents.
HLIST = (
    "scale id desc_scale desc_id num_prog pid upid desc_pid phantom sam_Mvir Mvir Rvir rs vrms mmp? scale_of_last_MM "
    "vmax x y z vx vy vz Jx Jy Jz Spin Breadth_first_ID Depth_first_ID Tree_root_ID Orig_halo_ID Snap_idx "
    "Next_coprogenitor_depthfirst_ID Last_progenitor_depthfirst_ID Last_mainleaf_depthfirst_ID Tidal_Force Tidal_ID "
    "Rs_Klypin Mvir_all M200b M200c M500c M2500c Xoff Voff Spin_Bullock b_to_a c_to_a A[x] A[y] A[z] b_to_a(500c) "
    "c_to_a(500c) A[x](500c) A[y](500c) A[z](500c) T/|U| M_pe_Behroozi M_pe_Diemer Halfmass_Radius Macc Mpeak Vacc "
    "Vpeak Halfmass_Scale Acc_Rate_Inst Acc_Rate_100Myr Acc_Rate_1*Tdyn Acc_Rate_2*Tdyn Acc_Rate_Mpeak Mpeak_Scale "
    "Acc_Scale First_Acc_Scale First_Acc_Mvir First_Acc_Vmax Vmax\\@Mpeak"
).split()
OUT = (
    "ID DescID Mvir Vmax Vrms Rvir Rs Np X Y Z VX VY VZ JX JY JZ Spin rs_klypin Mvir_all M200b M200c M500c M2500c Xoff "
    "Voff spin_bullock b_to_a c_to_a A[x] A[y] A[z] b_to_a(500c) c_to_a(500c) A[x](500c) A[y](500c) A[z](500c) T/|U| "
    "M_pe_Behroozi M_pe_Diemer Halfmass_Radius PID"
).split()

HLIST_COMMENTS = """\
#Omega_M = 0.307110; Omega_L = 0.692890; h0 = 0.678000
#Full box size = 40.000000 Mpc/h
#Scale: Scale factor of halo.
#Pid: ID of least massive host halo (-1 if distinct halo).
#Upid: ID of most massive host halo (different from Pid when the halo is within two or more larger halos).
#Mvir: Halo mass (Msun/h).
#X/Y/Z: Halo position (Mpc/h comoving).
#A[x],A[y],A[z]: Largest shape ellipsoid axis (kpc/h comoving).
#Macc,Vacc: Mass and Vmax at accretion.
#Consistent Trees Version 1.01
"""
OUT_COMMENTS = """\
#a = 0.666667
#Om = 0.307110; Ol = 0.692890; h = 0.678000
#FOF linking length: 0.280000
#Unbound Threshold: 0.500000; FOF Refinement Threshold: 0.700000
#Particle mass: 2.60114e+09 Msun/h
#Box size: 40.000000 Mpc/h
#Force resolution assumed: 0.02 Mpc/h
#Units: Masses in Msun / h
#Units: Positions in Mpc / h (comoving)
#Units: Halo Distances, Lengths, and Radii in kpc / h (comoving)
#Rockstar Version: 0.99.9-RC3+
"""


def write(path, names, comments, columns, numbered=False):
    """The named columns, and 0.125 in all others: a column taken for another shows."""
    n = len(next(iter(columns.values())))
    unknown = set(columns) - set(names)
    assert not unknown, unknown
    words = [columns.get(name, ["0.125"] * n) for name in names]
    first = " ".join(f"{name}({i})" if numbered else name for i, name in enumerate(names))
    lines = [f"#{first}\n", comments, *(" ".join(row) + "\n" for row in zip(*words, strict=True))]
    with (gzip.open if path.suffix == ".gz" else open)(path, "wt") as file:
        file.writelines(lines)
    return path


def text(values, form="%d"):
    return [form % value for value in values]


def columns_of(catalogue, mass_form):
    """Columns that both formats share, hosts first, with sub-halos' host ids; ids in no order."""
    table = catalogue.to_halotools().halo_table
    ids = 7 + 3 * np.random.default_rng(1).permutation(len(table))
    is_host = np.asarray(table["halo_upid"]) == -1
    host_id = np.where(is_host, -1, ids[np.asarray(table["halo_hostid"])])
    columns = {"id": text(ids), "host": text(host_id), "mpeak": text(table["halo_mpeak"], mass_form)}
    columns |= {x: text(table[f"halo_{x}"], "%.5f") for x in "xyz"}
    # ROCKSTAR's axes have a length, in kpc/h.
    columns |= {f"A[{x}]": text(150.0 * table[f"halo_axisA_{x}"], "%.5f") for x in "xyz"}
    return columns, is_host


def write_hlist(path, catalogue):
    columns, is_host = columns_of(catalogue, "%.5e")
    host, mpeak = columns.pop("host"), columns.pop("mpeak")
    # Sub-halos have lost mass, those with the largest peak most: ranked by Mvir they would come in another order.
    mvir = np.where(is_host, np.array(mpeak, float), 1e19 / np.array(mpeak, float))
    columns |= {"pid": ["1"] * len(host), "upid": host, "Mvir": text(mvir, "%.5e"), "Mpeak": mpeak}
    return write(path, HLIST, HLIST_COMMENTS, columns | {"scale": ["1.00231"] * len(host)}, numbered=True)


def write_out(path, catalogue):
    columns, _ = columns_of(catalogue, "%.3e")
    columns = {name if "[" in name else name.upper(): values for name, values in columns.items()}
    columns |= {"PID": columns.pop("HOST"), "Mvir": columns.pop("MPEAK")}
    return write(path, OUT, OUT_COMMENTS, columns)


def assert_same(read, catalogue, mass_rtol):
    np.testing.assert_array_equal(read.n_subhalos, catalogue.n_subhalos)
    np.testing.assert_allclose(read.mass, catalogue.mass, rtol=mass_rtol)
    np.testing.assert_allclose(read.axis, catalogue.axis, atol=1e-6)
    for name, digits in (("position", 1.0), ("offset", 2.0)):
        apart = getattr(read, name) - getattr(catalogue, name)
        assert np.abs(apart - read.Lbox * np.round(apart / read.Lbox)).max() < digits * 0.51e-5
    assert read.Lbox == catalogue.Lbox


@pytest.fixture(scope="module")
def hlist(pm40, tmp_path_factory):
    return write_hlist(tmp_path_factory.mktemp("rockstar") / "hlist_1.00231.list.gz", pm40)


def test_commands_show_lines_in_a_pipe_and_nothing_with_quiet(pm40, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("iaemu_training.halos.rockstar._CHUNK", 1000)
    monkeypatch.setattr("iaemu.progress.LINES_APART", -1.0)
    monkeypatch.setattr("iaemu_training.halos.rockstar.BAR_AFTER", -1.0)
    path = write_out(tmp_path / "out_0.list", pm40)
    strengths = ["--mu-cen", "0.5", "--mu-sat", "0", "--logmmin", "12", "--logm1", "13"]
    for command, words in (
        (main, ["pack", str(path), "-o", str(tmp_path / "packed.hdf5")]),
        (iaemu, ["mock", "-c", str(path), "-o", str(tmp_path / "mock.hdf5"), "-f", *strengths]),
    ):
        assert command(words) == 0
        lines = capsys.readouterr().err
        assert "reading out_0.list" in lines and "\r" not in lines
        assert command([*words, "-q"]) == 0
        assert "reading" not in capsys.readouterr().err


class TestFormats:
    def test_hlist_of_consistent_trees(self, pm40, hlist):
        read = HaloCatalogue.load(hlist)
        assert_same(read, pm40, mass_rtol=1e-5)
        assert read.name == "hlist_1.00231"
        assert read.attributes == {
            **dict(Om0=0.30711, Ode0=0.69289, h=0.678, cosmology="Om0=0.30711 Ode0=0.69289 h=0.678"),
            **dict(scale_factor=1.00231, redshift=-0.0023, source="ROCKSTAR catalogue hlist_1.00231.list.gz"),
            **dict(ranked_by="Mpeak", min_mass=0.0, n_subhalos_without_host=0),
        }

    def test_out_of_rockstar(self, pm40, tmp_path):
        path = write_out(tmp_path / "out_3.list", pm40)
        read = HaloCatalogue.read_rockstar(path, min_mass=0)
        assert_same(read, pm40, mass_rtol=1e-3)
        assert read.attributes["particle_mass"] == 2.60114e9
        assert read.attributes["redshift"] == 0.5
        assert "no Mpeak" in read.attributes["ranked_by"]

    def test_of_40_particles_by_default(self, pm40, tmp_path):
        path = write_out(tmp_path / "out_3.list", pm40)
        least = 40 * 2.60114e9
        read = HaloCatalogue.load(path)
        assert read.attributes["min_mass"] == pytest.approx(least)
        table = pm40.to_halotools().halo_table
        is_sub = np.asarray(table["halo_upid"]) != -1
        heavy = np.array(text(table["halo_mpeak"], "%.3e"), float) > least
        assert len(read.mass) == np.sum(heavy & ~is_sub)
        assert len(read.offset) == np.sum(heavy & is_sub) > 0
        # The particle mass may be given, too, and then sets the cut.
        other = HaloCatalogue.read_rockstar(path, particle_mass=1e10)
        assert other.attributes["particle_mass"] == 1e10
        assert other.mass.min() > 4e11

    def test_chunks_do_not_matter(self, hlist, monkeypatch):
        whole = HaloCatalogue.load(hlist)
        monkeypatch.setattr("iaemu_training.halos.rockstar._CHUNK", 1700)
        assert HaloCatalogue.load(hlist).sha256 == whole.sha256

    def test_halotools_populates_it(self, hlist):
        mocks = HalotoolsMocks(HaloCatalogue.load(hlist))
        theta = dict(mu_cen=0.8, mu_sat=0.5, logMmin=11.6, sigma_logM=0.26, logM0=11.9, logM1=12.7, alpha=1.0)
        galaxies = mocks.populate(theta, 1)
        assert 0 < np.sum(galaxies.is_central) < len(galaxies.positions)

    def test_the_command_line_reads_it(self, pm40, hlist, tmp_path, capsys):
        assert main(["pack", str(hlist), str(tmp_path / "packed.hdf5")]) == 0
        assert capsys.readouterr().out.startswith("hlist_1.00231: 2211 hosts, 9660 sub-halos")
        packed = HaloCatalogue.load(tmp_path / "packed.hdf5")
        assert packed.attributes["redshift"] == -0.0023
        np.testing.assert_array_equal(packed.n_subhalos, pm40.n_subhalos)


class TestForms:
    """The same halos, however the text is kept."""

    @pytest.fixture
    def whole(self, pm40, tmp_path):
        return write_out(tmp_path / "whole.list", pm40)

    def forms(self, text):
        lines = text.splitlines(keepends=True)
        commas = "".join(line if line[0] == "#" and i else line.replace(" ", ",") for i, line in enumerate(lines))
        note = "#Made by Jos\u00e9\n"
        return {
            "bom.list": b"\xef\xbb\xbf" + text.encode(),
            "latin.list": (lines[0] + note + "".join(lines[1:])).encode("latin-1"),
            "windows.txt": text.replace("\n", "\r\n").encode(),
            "commas.csv": commas[1:].encode(),
            "UPPER.LIST": text.encode(),
            "squeezed.ascii.bz2": bz2.compress(text.encode()),
            "squeezed.list.xz": lzma.compress(text.encode()),
            "misnamed.dat": gzip.compress(text.encode()),
            "unsigned.list": text.replace(" -1\n", f" {2**64 - 1}\n").encode(),
        }

    def test_all_give_the_same(self, whole, tmp_path):
        wanted = HaloCatalogue.load(whole).sha256
        for name, content in self.forms(whole.read_text()).items():
            (tmp_path / name).write_bytes(content)
            assert HaloCatalogue.load(tmp_path / name).sha256 == wanted, name

    def test_rows_in_errors_are_lines_of_the_file(self, whole, tmp_path):
        lines = whole.read_text().splitlines(keepends=True)
        words = lines[999].split()
        words[OUT.index("X")] = "47.5"
        (tmp_path / "out_2.list").write_text("".join([*lines[:999], " ".join(words) + "\n", *lines[1000:]]))
        with pytest.raises(CatalogueError, match=r"halo_x = 47\.5 in line 1000 of the file"):
            HaloCatalogue.load(tmp_path / "out_2.list")

    @pytest.mark.parametrize("stated", ["Particle mass: . Msun/h", "Particle mass: 1e400 Msun/h", "Box size: - Mpc/h"])
    def test_a_header_without_its_number_is_named(self, whole, tmp_path, stated):
        first, rest = whole.read_text().split("\n", 1)
        (tmp_path / "out_2.list").write_text(f"{first}\n#{stated}\n{rest}")
        with pytest.raises(CatalogueError, match=r"out_2\.list: line 2 should state a number: '#"):
            HaloCatalogue.load(tmp_path / "out_2.list")

    @pytest.mark.parametrize("options", [{"Lbox": -1.0}, {"Lbox": "40"}, {"particle_mass": np.nan}, {"min_mass": -1}])
    def test_numbers_given_have_ranges(self, whole, options):
        with pytest.raises(CatalogueError, match=f"{next(iter(options))} .* must be a number"):
            HaloCatalogue.read_rockstar(whole, **options)


class TestParents:
    """A host of 2e12, one of 1e12, and sub-halos of these, of each other, and of none."""

    IDS = (50, 20, 31, 32, 33, 34, 35)
    MASS = ("2e12", "1e12", "3e11", "1e11", "5e10", "4e11", "2e11")

    def write(self, path, parents, names=OUT, comments=OUT_COMMENTS, ids=IDS):
        column = {name.lower(): name for name in names}
        axis = {"A[x]": ["0"] * 7, "A[y]": ["0"] * 7, "A[z]": ["9"] * 7}
        place = {column[x]: text(np.linspace(1.0, 2.0 + i, 7), "%.5f") for i, x in enumerate("xyz")}
        parent = {column["upid" if "upid" in column else "pid"]: text(parents)}
        columns = {column["id"]: text(ids), column["mvir"]: list(self.MASS), **place, **axis, **parent}
        return write(path, names, comments, columns)

    def test_a_chain_is_followed_to_the_host(self, tmp_path):
        # 33 is in 32, in 31, in 20; 34 in a halo that the file lacks, and 35 in 34.
        path = self.write(tmp_path / "out_0.list", [-1, -1, 20, 31, 32, 99, 34])
        read = HaloCatalogue.read_rockstar(path, min_mass=0)
        assert read.mass.tolist() == pytest.approx([1e12, 2e12])
        assert read.n_subhalos.tolist() == [3, 0]
        assert read.attributes["n_subhalos_without_host"] == 2
        # Rows 2, 3 and 4, by descending mass, from row 1.
        np.testing.assert_allclose(read.offset[:, 1], np.array([1, 2, 3]) * 2.0 / 6.0, atol=2e-5)

    def test_an_upid_is_the_host(self, tmp_path):
        path = self.write(tmp_path / "hlist_1.0.list", [-1, -1, 20, 50, 50, 99, 31], HLIST, HLIST_COMMENTS)
        read = HaloCatalogue.load(path)
        assert read.n_subhalos.tolist() == [1, 2]
        assert read.attributes["n_subhalos_without_host"] == 2  # as in halotools: 31 is not a host

    def test_the_cut_in_mass(self, tmp_path):
        path = self.write(tmp_path / "out_0.list", [-1, -1, 50, 50, 50, -1, 34])
        read = HaloCatalogue.read_rockstar(path, min_mass=6e10)
        assert read.n_subhalos.tolist() == [1, 0, 2]
        assert read.attributes["n_subhalos_without_host"] == 0
        with pytest.raises(CatalogueError, match=r"no halo above 5e\+12 Msun/h"):
            HaloCatalogue.read_rockstar(path, min_mass=5e12)

    @pytest.mark.parametrize("parents", [[-1, -1, 32, 31, 20, 20, 20], [-1, -1, 32, 33, 31, 20, 20]])
    def test_a_loop_is_named(self, parents, tmp_path):
        path = self.write(tmp_path / "out_0.list", parents)
        with pytest.raises(CatalogueError, match="parents of halo 31 form a loop"):
            HaloCatalogue.read_rockstar(path, min_mass=0)

    def test_an_id_twice_is_named(self, tmp_path):
        path = self.write(tmp_path / "out_0.list", [-1] * 7, ids=(50, 20, 31, 31, 33, 34, 35))
        with pytest.raises(CatalogueError, match="id 31 belongs to more than one halo"):
            HaloCatalogue.read_rockstar(path, min_mass=0)

    def test_without_parents_the_utility_is_named(self, tmp_path):
        names = [name for name in OUT if name != "PID"]
        path = tmp_path / "out_0.list"
        path.write_text("#" + " ".join(names) + "\n" + OUT_COMMENTS + " ".join(["1"] * len(names)) + "\n")
        with pytest.raises(CatalogueError, match=r"(?s)neither a column PID nor UPID.*make parents.*util/find_parents"):
            HaloCatalogue.load(path)

    def test_the_side_of_the_box_is_asked_for(self, tmp_path):
        for stated in ("#Box size: 0.000000 Mpc/h\n", "#Box size: 40.0 kpc\n", ""):
            path = self.write(tmp_path / "out_0.list", [-1, -1, 20, 20, 20, 20, 20], comments="#a = 1.0\n" + stated)
            with pytest.raises(
                CatalogueError, match=r"does not state the side.*train pack .*out_0.list --lbox SIDE -o out_0.hdf5"
            ):
                HaloCatalogue.load(path)
        assert HaloCatalogue.read_rockstar(path, Lbox=25.0).Lbox == 25.0
        assert HaloCatalogue.load(path, Lbox=25.0, attributes={"particle_mass": 1e7}).Lbox == 25.0


class TestDamage:
    @pytest.fixture
    def lines(self, pm40, tmp_path, monkeypatch):
        monkeypatch.setattr(
            "iaemu_training.halos.rockstar._CHUNK", 1500
        )  # several chunks, through which lines are counted
        return write_out(tmp_path / "whole.list", pm40).read_text().splitlines(keepends=True)

    def damaged(self, lines, tmp_path, row, change):
        """Read the file with one line changed; the first row of data is line 13."""
        lines = [*lines[: row - 1], change(lines[row - 1]), *lines[row:]]
        (tmp_path / "out_1.list").write_text("".join(lines))
        return HaloCatalogue.load(tmp_path / "out_1.list")

    @pytest.mark.parametrize(
        "row, change, what",
        [
            (13, lambda line: line.rsplit(" ", 1)[0] + "\n", "the first line names 42 columns, .* first halo has 41"),
            (14, lambda line: line.rsplit(" ", 1)[0] + "\n", "line 14 has 41 columns, but .* names 42"),
            (5000, lambda line: line.strip() + " 7\n", "line 5000 has 43 columns"),
            (700, lambda line: "1.5" + line[line.index(" ") :], r"line 700 does not hold the numbers .*1\.5"),
            (700, lambda line: line.replace("e+", "x+", 1), "line 700 does not hold the numbers"),
            (700, lambda line: " ".join([*line.split()[:2], "nan", *line.split()[3:]]) + "\n", "line 700 .*not finite"),
            (11883, lambda line: line[: len(line) // 2], "line 11883 has .. columns"),
            (11883, lambda line: line[:-2], "line 11883 is the last one and does not end"),
        ],
    )
    def test_a_malformed_row_is_named(self, lines, tmp_path, row, change, what):
        assert len(lines) == 12 + 2211 + 9660
        with pytest.raises(CatalogueError, match=f"out_1.list: {what}"):
            self.damaged(lines, tmp_path, row, change)

    def test_blank_lines_and_later_comments_are_skipped(self, lines, tmp_path):
        read = self.damaged(lines, tmp_path, 700, lambda line: "\n#a comment\n" + line + "  \n")
        assert len(read.mass) == len(HaloCatalogue.load(tmp_path / "whole.list").mass)

    def test_a_truncated_gzipped_file(self, hlist, tmp_path):
        data = hlist.read_bytes()
        (tmp_path / "cut.list.gz").write_bytes(data[: len(data) // 2])
        with pytest.raises(CatalogueError, match=r"cut\.list\.gz cannot be read, or is truncated"):
            HaloCatalogue.load(tmp_path / "cut.list.gz")

    def test_the_first_line_must_name_the_columns(self, lines, tmp_path):
        for change, what in (
            (lambda line: line.replace("A[y] ", "A[why] "), r"lacks the column\(s\) A\[y\]"),
            (lambda line: line.replace("Mvir_all", "mvir"), "names mvir more than once"),
            (lambda line: line.replace(" X ", " X(9) "), r"names column 8, counted from 0, X\(9\)"),
            (lambda line: line[1:], "its first line must name the columns"),
        ):
            with pytest.raises(CatalogueError, match=what):
                self.damaged(lines, tmp_path, 1, change)

    def test_no_file_and_no_halos(self, lines, tmp_path):
        with pytest.raises(CatalogueError, match=r"There is no catalogue file .*none\.list"):
            HaloCatalogue.load(tmp_path / "none.list")
        (tmp_path / "empty.list").write_text("".join(lines[:12]))
        with pytest.raises(CatalogueError, match="has a header, but no halos"):
            HaloCatalogue.load(tmp_path / "empty.list")
