"""Which command makes which figure of the documentation: what run_all.py runs, and compares."""

from __future__ import annotations

import itertools
import re
from typing import NamedTuple


class Rule(NamedTuple):
    """When a measured figure holds beside that of a page.

    ``kind`` is "near" (within a share ``tolerance`` of the page's), "within" (an absolute difference), "at most"
    (``tolerance`` times the page's, for an error), or "at least" (``tolerance`` itself, for a p-value). Of times,
    "timing" compares the ratio of two, the first over the second, within a factor of ``tolerance``, and "time" only
    shows them. These fail no run, as machines differ. Tolerances are for the small samples of a quick run, whose seeds
    are fixed.
    """

    kind: str
    tolerance: float = 0.0

    def __str__(self) -> str:
        return self.kind if self.kind == "time" else f"{self.kind} {self.tolerance:g}"


class Claim(NamedTuple):
    """Figures on a page, and where a benchmark prints them.

    They are numbers, counted from 0 by ``page_at`` and ``output_at``, that follow a regular expression in the same
    line, or row of a table: on the page ``on_page``, in what the benchmark prints ``in_output``. The page is relative
    to the root.
    """

    what: str
    page: str
    on_page: str
    in_output: str
    rule: Rule
    page_at: tuple[int, ...] = (0,)
    output_at: tuple[int, ...] = (0,)


class Benchmark(NamedTuple):
    """Commands, from the root of the repository, and what is compared of all that they print.

    ``needs`` are modules without which it is left out.
    """

    full: tuple[str, ...]
    quick: tuple[str, ...] = ()
    claims: tuple[Claim, ...] = ()
    needs: tuple[str, ...] = ()


def text(words: str) -> str:
    """Return a pattern of words that a line end may separate."""
    return r"\s+".join(map(re.escape, words.split()))


def row(*cells: str, under: str = "") -> str:
    """Return a pattern of the first cells of a row of a table, the first such row below the words ``under``."""
    start = r"\| *" + r" *\| *".join(re.escape(cell) for cell in cells) + r" *\|"
    return rf"{text(under)}.*?\n{start}" if under else start


STATISTICS = ("xi", "omega", "eta")
INDEX = "docs/validation/index.md"
TABLES = "docs/validation/tables.md"
EMULATORS = "docs/validation/emulators.md"
SAMPLING = "docs/validation/sampling.md"
MEASURING = "docs/validation/measuring.md"
PROJECTED = "docs/validation/projected.md"
TNG300 = "docs/validation/tng300.md"
STRENGTH_LAWS = "docs/validation/strength_laws.md"
COSTS = "docs/validation/costs.md"
LARGE_SCALE = "docs/validation/large_scale.md"
JOINT = "docs/how_to/joint_chains.md"
REPORT = "docs/reports/factorised-pm160/report.md"


def emulator_against_tables() -> list[Claim]:
    rows = {
        ("2000 inside", "the paper's 20"): r"inside: \d+ points, 20 bins",
        ("", "55 between nodes, to 25 Mpc/h"): r"inside: \d+ points, 55 bins",
        ("", "TNG300's 12"): r"inside: \d+ points, 12 bins",
        ("2000 on faces", "the paper's 20"): "faces:",
        ("32 corners", "the paper's 20"): "corners:",
    }
    claims = []
    for place, (number, name) in itertools.product(rows, enumerate(STATISTICS)):
        output = rf"### {rows[place]}[^#]*?\| {name} \|"
        what = f"{name}, {' '.join(place).strip()}: median, 95 % [%]"
        # Strengths at the 32 corners are random.
        rule = Rule("near", 0.25 if place[0] == "32 corners" else 0.2)
        where = (2 * number, 2 * number + 1)
        claims.append(Claim(what, TABLES, row(*place, under="## Emulator against tables"), output, rule, where, (0, 1)))
        if place[0] == "2000 inside":
            claims.append(Claim(what, INDEX, "median error", output, rule, (number, number + 4), (0, 1)))
    return claims


def predictions() -> list[Claim]:
    """Ratios of predictions a second; what is printed has the seconds after each of them."""
    page, output, rule = row("64", under="## Speed and gradients"), row("64"), Rule("timing", 3.0)
    columns = {"FactorisedNet over IAEmuNet": (0, 2), "the same with gradient": (1, 3), "without over with": (0, 1)}
    return [
        Claim(f"64 points, {what}", EMULATORS, page, output, rule, (first, second), (2 * first, 2 * second))
        for what, (first, second) in columns.items()
    ]


def box_errors() -> list[Claim]:
    claims = []
    for sample, name in itertools.product("123", STATISTICS):
        page, output = row(sample, name, under="## The models' own errors"), row(sample, name)
        what = f"{name}, sample {sample}: "
        for columns, rule, at in (
            ("box, epistemic, data [%]", Rule("near", 0.1), (0, 1, 2)),
            ("box / data", Rule("within", 0.011), (3, 4, 5)),
        ):
            claims.append(Claim(what + columns, TABLES, page, output, rule, at, at))
    return claims


def tng_posteriors() -> list[Claim]:
    kinds = ("no correction", "Hartlap", "t", "Sellentin-Heavens", "+1e-6")
    plain = ("12 bins, published errors", "12 bins, published errors, +1e-6")
    borrowed = [f"12 bins, correlation of sample 3 (27 regions), {kind}" for kind in ("Hartlap", "t")]
    many, few = ([f"{bins}, {kind}" for kind in kinds] for bins in ("17 bins, 125 regions", "12 bins, 27 regions"))
    cases = {"1": [*plain, *borrowed], "2": [*plain, *borrowed], "3": [*many, "19 bins, 125 regions, t", *few, *plain]}
    claims = []
    for sample, labels in cases.items():
        for label, (error, at) in itertools.product(labels, (("on", (0, 1, 2, 3)), ("off", (4, 5, 6, 7)))):
            page = rf"\n\| {sample} \| [\d.]+ .*?\| \*{{0,2}}{re.escape(label)}\*{{0,2}} \|"
            what = f"sample {sample}, {label}, emulator_error {error}: mu_cen, mu_sat"
            output = row(sample, label, "emulator", error)
            claims.append(Claim(what, TNG300, page, output, Rule("within", 0.002), at, (0, 1, 2, 3)))
    return claims


def posteriors_on_a_grid() -> list[Claim]:
    columns = {"mean ± sd": (0, 1), "HMC - grid [sigma]": (2,), "mcmc - grid": (4,)}
    rules = (Rule("within", 0.001), Rule("within", 0.05), Rule("within", 0.2))
    return [
        Claim(f"sample 1, {name}: {what}", SAMPLING, row("1", name), row("1", name), rule, at, at)
        for name in ("mu_cen", "mu_sat")
        for (what, at), rule in zip(columns.items(), rules, strict=True)
    ]


def jackknife() -> list[Claim]:
    return [
        Claim(
            f"clusters, {part}: jackknife error / scatter of xi, omega, eta",
            MEASURING,
            rf"\| {re.escape(part)} \|",
            rf"\nclusters \(.*?\| {re.escape(part)} \|",
            Rule("within", 0.05),
            (0, 1, 2),
            (0, 1, 2),
        )
        for part in ("rms, r < 2", "rms, r > 2")
    ]


def mocks_against_tables() -> list[Claim]:
    """p-values are random: a small one is what fails."""
    claims = [
        Claim(
            f"{name}, sample 1, {bins} bins: p of Hotelling's T^2",
            TABLES,
            row("tng1", bins, used),
            rf"\| tng1 \| {bins} \| {used.replace('of', '/')} \| {printed} \|",
            Rule("at least", 0.001),
            (2 * column + 1,),
            (1,),
        )
        for bins, used in (("paper", "20 of 20"), ("TNG", "12 of 12"))
        for column, (name, printed) in enumerate({"DD": "DD", "omega": "omega", "eta": "eta"}.items())
    ]
    page = row("tng1", under="logM1, alpha | galaxies")
    claims.append(Claim("galaxies of sample 1", TABLES, page, row("tng1"), Rule("near", 0.01), (7,), (9,)))
    claims.append(Claim("populate [s], count [s]", TABLES, page, row("tng1"), Rule("time"), (9, 10), (15, 16)))
    return claims


def strength_law_accuracy() -> list[Claim]:
    """The page has tables and emulator in one row: omega and eta of each."""
    strengths = {
        ("0.80", "0.30", "0.00", "0.00"): (0, 1, 2, 3),
        ("0.80", "0.50", "0.10", "0.50"): (0, 1),
        ("0.80", "0.90", "-0.10", "-0.30"): (0, 1),
        ("0.80", "0.40", "0.00", "-0.30"): (0, 1, 2, 3),
        ("0.80", "0.20", "0.00", "-0.70"): (0, 1, 2, 3),
        ("0.80", "0.20", "0.10", "-1.30"): (0, 1),
    }
    return [
        Claim(
            f"sample 1, strengths and slopes {', '.join(cells)}: omega, eta [%]",
            STRENGTH_LAWS,
            row("sample 1", *cells),
            row("sample 1", *cells),
            Rule("within", 0.02),
            at,
            at,
        )
        for cells, at in strengths.items()
    ]


def beside_ccl() -> list[Claim]:
    names = {"w_gg": "w_gg, CCL / ours", "w_g+ of satellites": "w_g+ of one halo, CCL / ours"}
    bins = tuple(range(7))
    return [
        Claim(
            f"sample {sample}, {name}: CCL / tables",
            PROJECTED,
            row(f"sample {sample}, {name}"),
            rf"sample {sample}: factor.*?{row(printed)}",
            Rule("within", 0.011),
            bins,
            bins,
        )
        for sample in (1, 2)
        for name, printed in names.items()
    ]


def error_cost() -> list[Claim]:
    labels = ("gradient of 1 point", "gradient of 64 points", "gradient of 256 points", "a step of mcmc")
    return [
        Claim(f"{label}: on / off", COSTS, row(label), row(label), Rule("timing", 2.0), (1, 0), (1, 0))
        for label in labels
    ]


def component_times() -> list[Claim]:
    cases = [
        (LARGE_SCALE, "Omega_m, S8 (power spectrum of CCL)", "joint_cosmic_shear.yaml", "S8"),
        (LARGE_SCALE, "photometric redshifts", "joint_cosmic_shear.yaml", "des_y1_dz_1"),
        (LARGE_SCALE, "alignment and occupation: IAEmu and LOWZ", "joint_cosmic_shear.yaml", "mu_cen"),
        (LARGE_SCALE, "ia_ratio, shear calibration", "joint_cosmic_shear.yaml", "ia_ratio"),
        (JOINT, "CAMB's transfer functions", "joint_lensing.yaml", "omch2"),
        (JOINT, "alignment", "joint_lensing.yaml", "ia_mu_cen"),
        (JOINT, "amplitude of CMB lensing", "joint_lensing.yaml", "logA"),
    ]
    return [
        Claim(
            f"{label}: one evaluation [ms]",
            page,
            rf"\| {re.escape(label)} \|(?: `[^|]*\|)?",
            row(file, name),
            Rule("time"),
        )
        for page, label, file, name in cases
    ]


def sums_against_tables() -> list[Claim]:
    """Few points stand for many: these are limits."""
    return [
        Claim(
            f"{name}, random points: median, 95 % [%]",
            TABLES,
            rf"\| 161 random \| xi .*?\| {name} \|",
            rf"\| {name} \| \d+ \|",
            Rule("at most", 2.0),
            (0, 1),
            (0, 1),
        )
        for name in STATISTICS
    ]


def pulls_of_mocks() -> list[Claim]:
    return [
        Claim(
            f"{name}, all bins: mean, standard deviation, in 68 %, in 95 % [%]",
            TABLES,
            row(name, "7163"),
            row(name, "all", "7163"),
            Rule("within", 0.06),
            (0, 1, 2, 3),
            (0, 1, 2, 3),
        )
        for name in STATISTICS
    ]


def report() -> list[Claim]:
    """Metrics of the emulator and, where they are given, of the labels."""
    metrics = {
        "Spearman correlation (SCC)": 0.001,
        "NRMSE": 0.001,
        "SMAPE": 0.005,
        "aleatoric sigma, median bias": 0.0001,
        "single mocks inside 68 %": 0.06,
        "labels within one epistemic sigma": 0.06,
    }
    claims = [
        Claim(f"{metric} of {name}", REPORT, row(metric, name), row(metric, name), Rule("within", tolerance))
        for (metric, tolerance), name in itertools.product(metrics.items(), STATISTICS)
    ]
    for number, name in enumerate(STATISTICS):
        on_page, metric = "Are its uncertainties calibrated", "single mocks inside 68 %"
        what = f"{metric} of {name}"
        claims.append(Claim(what, INDEX, on_page, row(metric, name), Rule("within", 0.06), (number,)))
    return claims


def samplers() -> list[Claim]:
    page, output = row("default", "HMC"), row("default", "HMC")
    mcmc = row("default", "Cobaya mcmc")
    return [
        Claim("HMC, omega of sample 1: ess/gradient", SAMPLING, page, output, Rule("near", 0.25), (7,), (7,)),
        Claim("HMC: ess/s, with warm-up", SAMPLING, page, output, Rule("time"), (5, 6), (5, 6)),
        Claim("Cobaya mcmc: ess/s", SAMPLING, mcmc, mcmc, Rule("time"), (5,), (5,)),
    ]


def recovered() -> list[Claim]:
    claims = []
    for name, truth in (("mu_cen", "0.8"), ("mu_sat", "0.3")):
        page, output = rf"\| on \(default\) .*?\| {name} \|", rf"\| {name} \({truth}\) \|"
        claims += [
            Claim(f"{name}: mean pull", MEASURING, page, output, Rule("within", 0.5)),
            Claim(f"{name}: posterior sd", MEASURING, page, output, Rule("near", 0.2), (7,), (10,)),
        ]
    return claims


def linear_fits() -> list[Claim]:
    page = output = row("12", "125")
    return [
        Claim("12 bins, 125 regions: expected sd of pulls", MEASURING, page, output, Rule("within", 0.02)),
        Claim("sd of pulls, mean covariance", MEASURING, page, output, Rule("within", 0.15), (5, 6), (5, 6)),
    ]


def mocks_against_projection() -> list[Claim]:
    pages = {"w_gg": row("sample 1, 400 mocks, 10", "w_gg"), "w_gplus": r"\| sample 1, 400 mocks, 10 .*?\| w_g\+ \|"}
    return [
        Claim(
            f"{name}: p of Hotelling's T^2",
            PROJECTED,
            page,
            rf"\| {name}, random lines \|",
            Rule("at least", 0.001),
            (14,),
            (22,),
        )
        for name, page in pages.items()
    ]


def other_estimators() -> list[Claim]:
    page = row("w_gg, w_g+, w_++, all bins: sums over all pairs, halotools, MeasureIA")
    cases = itertools.product(("w_gg", "w_gplus", "w_plusplus"), ("direct", "halotools"))
    return [
        Claim(
            f"{name}, {code} / ours",
            MEASURING,
            page,
            row(name, f"{code} / ours"),
            Rule("within", 1e-7),
            (0,) * 4,
            (0, 1, 2, 3),
        )
        for name, code in cases
    ]


def lines_of_sight() -> list[Claim]:
    bins = tuple(range(7))
    return [
        Claim(
            f"w_g+, jackknife error, {label} / three",
            MEASURING,
            row(f"w_g+, {label}", "jackknife"),
            row("w_gplus", printed, "jackknife"),
            Rule("within", 0.2),
            bins,
            bins,
        )
        for label, printed in (("all lines of sight", "all"), ("one axis", "1"))
    ]


def calibration_of_the_sampler() -> list[Claim]:
    names = ("mu_cen", "mu_sat", "log-posterior")
    return [
        Claim(
            f"ranks of {name}: p",
            SAMPLING,
            text("Kolmogorov-Smirnov p ="),
            row(name),
            Rule("at least", 0.001),
            (number,),
            (3,),
        )
        for number, name in enumerate(names)
    ]


def heavy_tails() -> list[Claim]:
    return [
        Claim(
            f"t in {number} directions: pull of the mean",
            SAMPLING,
            row(number, "default", under="| dimensions | jumps"),
            row(number, "default"),
            Rule("within", 0.5),
            (9,),
            (10,),
        )
        for number in ("1", "4")
    ]


def surveys() -> list[Claim]:
    page, output = row("LOWZ, 0.267"), r"\| chains/lowz_wgplus \|"
    columns = {"b_g": (4, 0.03), "A_IA": (6, 0.1), "log10 M_h": (8, 0.005)}
    return [
        Claim(f"LOWZ, {name}", PROJECTED, page, output, Rule("near", tolerance), (at,), (at,))
        for name, (at, tolerance) in columns.items()
    ]


def joint_marginals() -> list[Claim]:
    page, rule = "docs/validation/joint_chains.md", Rule("within", 0.2)
    names = ("ia_mu_cen", "ia_mu_sat")
    rows = {name: row("joint_lensing", name) for name in names}
    return [Claim(f"{name}: mean - grid [sigma]", page, rows[name], rows[name], rule, (5,), (3,)) for name in names]


def gradients() -> list[Claim]:
    page, rule = text("FactorisedNet differs by at most"), Rule("at most", 5.0)
    return [Claim("error of the gradient, worst", EMULATORS, page, row("factorised-pm160"), rule, (0,), (2,))]


def network_gradients() -> list[Claim]:
    page, rule = text("of 1e-7 standard deviations the median is"), Rule("at most", 5.0)
    return [Claim("IAEmuNet: median, 99 %", EMULATORS, page, row("iaemunet-pm160"), rule, (0, 2), (0, 1))]


def projected_gradients() -> list[Claim]:
    page, rule = text("the error of the gradient of w_gg and w_g+ is at most"), Rule("at most", 5.0)
    names = enumerate(("factorised-pm160", "tables-pm160"))
    return [Claim(f"{name}: worst", PROJECTED, page, row(name), rule, (at,), (2,)) for at, name in names]


def of(script: str, full: str, quick: str | None, claims: list[Claim], needs: tuple[str, ...] = ()) -> Benchmark:
    """Return a benchmark that is one script with arguments; without ``quick`` a quick run leaves it out."""
    commands = [f"benchmarks/{script}.py {arguments}".strip() for arguments in (full, quick) if arguments is not None]
    return Benchmark((commands[0],), tuple(commands[1:]), tuple(claims), needs)


SHIPPED, TWO = "factorised-pm160", "factorised-pm160 iaemunet-pm160 --threads 1"
JOINT_FILES = "yaml_examples/joint_cosmic_shear.yaml yaml_examples/joint_lensing.yaml"

BENCHMARKS: dict[str, Benchmark] = {
    "emulator_vs_tabulated": of("emulator_vs_tabulated", "-n 2000", "-n 400", emulator_against_tables()),
    "gradient_accuracy": of("gradient_accuracy", SHIPPED, f"{SHIPPED} -n 50", gradients()),
    "gradient_accuracy_iaemunet": of(
        "gradient_accuracy", "iaemunet-pm160 --step 1e-7", "iaemunet-pm160 --step 1e-7 -n 50", network_gradients()
    ),
    "gradient_accuracy_projected": of(
        "gradient_accuracy",
        f"--projected {SHIPPED} tables-pm160 -n 60 --step 2e-6",
        f"--projected {SHIPPED} tables-pm160 -n 20 --step 2e-6",
        projected_gradients(),
    ),
    "predictions_per_second": of("predictions_per_second", TWO, f"{TWO} --batches 1 64 --repetitions 9", predictions()),
    "predictions_per_second_projected": of(
        "predictions_per_second", "--projected --threads 1 --batches 1 64 32768", None, []
    ),
    "box_error": of("box_error", "--direct", "", box_errors()),
    "tng_posteriors": of("tng_posteriors", "", "--models emulator", tng_posteriors()),
    "calibration": Benchmark(*[("iaemu train check calibration-pm160",)] * 2, tuple(pulls_of_mocks())),
    "report": Benchmark(
        (f"iaemu train evaluate {SHIPPED} calibration-pm160 -o report",),
        (f"iaemu train evaluate {SHIPPED} calibration-pm160 -o report --bootstrap 0",),
        tuple(report()),
    ),
    "exact_sums": of(
        "exact_sums", "--no-corners --faces 0 -n 161", "--no-corners --faces 0 -n 6", sums_against_tables()
    ),
    "exact_sums_any_bins": of("exact_sums", "--binnings 50 --r-max 25 --no-corners --faces 0 -n 6", None, []),
    "strength_law_accuracy": of("strength_law_accuracy", "--random 8", "--samples 1", strength_law_accuracy()),
    "strength_law_box_error": of("strength_law_accuracy", "--box-error", None, []),
    "samplers_agree": of(
        "samplers_agree", "--mcmc-steps 1500", "--samples 1 --hmc-draws 100 --mcmc-steps 300", posteriors_on_a_grid()
    ),
    "simulation_based_calibration": of(
        "simulation_based_calibration", "--n 400", "--n 10", calibration_of_the_sampler()
    ),
    "heavy_tails": of("heavy_tails", "", "--seeds 6 --draws 100", heavy_tails()),
    "samplers": of(
        "samplers",
        "--models default tables",
        '--models default --samplers HMC "Cobaya mcmc" --mcmc-samples 300',
        samplers(),
    ),
    "samplers_paper_bins": of("samplers", "--posterior paper-bins --models default iaemunet --draws 60", None, []),
    "samplers_joint": of("samplers", "--posterior joint --models default", None, []),
    "jackknife_vs_scatter": of("jackknife_vs_scatter", "--n-points 200", "--kind clusters --n-points 60", jackknife()),
    "jackknife_cross_weights": of("jackknife_vs_scatter", "--kind clusters --n-points 200 --cross-weights", None, []),
    "recovery_linear": of("recovery", "--linear 400", "--linear 30", linear_fits()),
    "recovery": of(
        "recovery", "--n 100 --distribution t hartlap gaussian --emulator-error on off", "--n 10", recovered()
    ),
    "recovery_27_regions": of(
        "recovery", "--n 100 --regions 3 --distribution t hartlap gaussian --emulator-error off", None, []
    ),
    "tabulated_vs_halotools": of(
        "tabulated_vs_halotools", "--n-mocks 48", "--points tng1 --n-mocks 40", mocks_against_tables()
    ),
    "projected_against_mocks": of(
        "projected_against_mocks",
        "--n-mocks 400 --lines-of-sight 48",
        "--n-mocks 10 --pi-max 10",
        mocks_against_projection(),
    ),
    "projected_against_others": of(
        "projected_against_others",
        "--catalogue pm160a --point tng1 --pi-max 20 --rp 0.2 10 --n-bins 8 --errors",
        "",
        other_estimators(),
    ),
    "projected_lines_of_sight": of("projected_lines_of_sight", "--n-mocks 40", "--n-mocks 3", lines_of_sight()),
    "projected_beside_ccl": of("projected_beside_ccl", "", "", beside_ccl(), ("pyccl",)),
    "strength_laws": of("strength_laws", "", None, [], ("nautilus",)),
    "survey_fits": Benchmark(
        (
            "cobaya-run yaml_examples/lowz_wgplus.yaml -f",
            "benchmarks/survey_fits.py chains/lowz_wgplus --redshift 0.267",
        ),
        claims=tuple(surveys()),
    ),
    "joint_marginals": Benchmark(
        (
            "cobaya-run yaml_examples/joint_lensing.yaml -f",
            "cobaya-run yaml_examples/tng_sample1_mcmc.yaml -f",
            "benchmarks/joint_marginals.py chains/joint_lensing chains/tng_sample1_mcmc",
        ),
        claims=tuple(joint_marginals()),
        needs=("camb",),
    ),
    "emulator_error_cost": of("emulator_error_cost", "", "--repetitions 50 --steps 200", error_cost()),
    "component_times": of("component_times", JOINT_FILES, f"{JOINT_FILES} -n 3", component_times(), ("pyccl", "camb")),
}

#: Scripts that are not run, and why.
NOT_RUN = {
    "dataset_throughput": "no page states its figures",
    "growth_at_fixed_mass": "no page states its figures",
    "growth_rescaling": "needs simulations of other cosmologies (docs/how_to/cosmologies.md)",
    "halo_audit": "needs published measurements of halos, and particles",
    "held_out_redshift": "needs tables at four redshifts (docs/how_to/train.md)",
    "large_scale_amplitudes": "needs the particles of the simulations (docs/how_to/simulate.md)",
}
