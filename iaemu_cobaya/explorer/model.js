// The emulator: what Python's model.predict, model.project and model.large_scale give, in double precision.
// DATA holds weights and matrices, written by iaemu_cobaya/explorer/export.py.

/** An array that Python packed, as {rows, columns, values}; a vector has one row. */
function unpacked({ shape, type, base64 }) {
  const bytes = Uint8Array.from(atob(base64), (character) => character.charCodeAt(0));
  const values = new (type === "float32" ? Float32Array : Float64Array)(bytes.buffer);
  const [rows, columns] = shape.length === 2 ? shape : [1, shape[0]];
  return { rows, columns, values: Float64Array.from(values) };
}

/** Replace all packed arrays in what JSON gave. */
function unpackedAll(value) {
  if (Array.isArray(value)) return value.map(unpackedAll);
  if (value === null || typeof value !== "object") return value;
  if ("base64" in value) return unpacked(value);
  return Object.fromEntries(Object.entries(value).map(([name, part]) => [name, unpackedAll(part)]));
}

/** matrix @ vector */
function times({ rows, columns, values }, vector) {
  const result = new Float64Array(rows);
  for (let row = 0, at = 0; row < rows; row++) {
    let sum = 0;
    for (let column = 0; column < columns; column++) sum += values[at++] * vector[column];
    result[row] = sum;
  }
  return result;
}

const dot = (a, b) => a.reduce((sum, value, i) => sum + value * b[i], 0);

/** A tabulated function of one variable, by the cubic polynomial through the four nearest nodes. */
function interpolated({ low, step, values: { rows, columns, values } }, x) {
  const t = (x - low) / step;
  const start = Math.min(Math.max(Math.floor(t) - 1, 0), rows - 4);
  const u = t - start;
  const weights = [
    ((u - 1) * (u - 2) * (u - 3)) / -6,
    (u * (u - 2) * (u - 3)) / 2,
    (u * (u - 1) * (u - 3)) / -2,
    (u * (u - 1) * (u - 2)) / 6,
  ];
  const result = new Float64Array(columns);
  for (let k = 0; k < 4; k++)
    for (let column = 0; column < columns; column++)
      result[column] += weights[k] * values[(start + k) * columns + column];
  return result;
}

/** The error function, to rounding: its series, and a continued fraction of 1 - erf beyond 2.5. */
function erf(x) {
  const size = Math.abs(x);
  if (size > 6) return Math.sign(x);
  const gauss = Math.exp(-size * size) / Math.sqrt(Math.PI);
  if (size > 2.5) {
    let fraction = 0;
    for (let k = 40; k > 0; k--) fraction = k / 2 / (size + fraction);
    return Math.sign(x) * (1 - gauss / (size + fraction));
  }
  let term = size, sum = size;
  for (let n = 1; term > 1e-17 * sum; n++) sum += term *= (2 * size * size) / (2 * n + 1);
  return Math.sign(x) * 2 * gauss * sum;
}

const ACTIVATIONS = {
  gelu: (x) => 0.5 * x * (1 + erf(x * Math.SQRT1_2)),
  silu: (x) => x / (1 + Math.exp(-x)),
};

/** Outputs of the network at an occupation. The redshift moves the bias of the first layer, linearly. */
function networkOutputs(theta) {
  const network = DATA.network, [low, high] = DATA.redshifts;
  const offsets = network.occupation.map((name, i) => {
    const line = network.line_slope[i] * theta.logMmin + network.line_intercept[i];
    return (theta[name] - line) / network.half_width[i];
  });
  const share = (theta.z - low) / (high - low), moved = network.first_bias_at_last_redshift.values;
  const activation = ACTIVATIONS[network.activation];
  let values = offsets;
  network.layers.forEach(({ weight, bias: { values: bias } }, layer) => {
    values = times(weight, values);
    const last = layer === network.layers.length - 1;
    for (let i = 0; i < values.length; i++) {
      const added = layer === 0 ? bias[i] + share * (moved[i] - bias[i]) : bias[i];
      values[i] = last ? values[i] + added : activation(values[i] + added);
    }
  });
  return values;
}

/** 1 + xi, the ingredients of omega and eta, and the expected pairs, in the shells between nodes. */
function betweenNodes(theta) {
  const outputs = networkOutputs(theta), n = DATA.shells.columns, shells = {};
  DATA.network.ingredients.forEach((name, i) => (shells[name] = outputs.subarray(i * n, (i + 1) * n)));
  const n_gal = 10 ** outputs[outputs.length - 2], f_sat = outputs[outputs.length - 1];
  const pairs = shells.log_1p_xi.map(Math.exp);
  const counts = pairs.map((value, i) => value * DATA.shells.values[i] * n_gal ** 2 * DATA.box_volume);
  return { ...shells, pairs, counts, n_gal, f_sat };
}

/** NaN where fewer pairs are expected than Python predicts from. */
const masked = (values, counts) => values.map((value, i) => (counts[i] < DATA.fewest_pairs ? NaN : value));

/** Means over the pairs in some bins, and xi. */
function inBins(shells, bins) {
  const { missing, volumes, weights } = bins;
  const number = shells.pairs.map((value, i) => value * DATA.shells.values[i]);
  const total = times(weights, number).map((value, i) => value + missing.values[i]);
  const counts = total.map((value) => value * shells.n_gal ** 2 * DATA.box_volume);
  const mean = (values) => times(weights, values.map((value, i) => value * number[i])).map((sum, i) => sum / total[i]);
  const found = { xi: total.map((value, i) => value / volumes.values[i] - 1) };
  for (const name of ["A_c", "A_s", "E_cc", "E_cs", "E_ss"]) found[name] = mean(shells[name]);
  return Object.fromEntries(Object.entries(found).map(([name, values]) => [name, masked(values, counts)]));
}

/** xi, omega and eta from what does not depend on the strengths. */
function oriented(found, qc, qs) {
  const centrals = found.A_c.map((value) => qc * value), satellites = found.A_s.map((value) => qs * value);
  const eta = (_, i) => qc * qc * found.E_cc[i] + 2 * qc * qs * found.E_cs[i] + qs * qs * found.E_ss[i];
  return {
    xi: { total: found.xi },
    omega: { total: centrals.map((value, i) => value + satellites[i]), centrals, satellites },
    eta: { total: found.E_cc.map(eta) },
  };
}

/** Sums over shells that projected statistics are linear in: xi, and (1 + xi) omega by kind of shape. */
function projectable(shells, qc, qs) {
  return {
    xi: shells.pairs.map((value) => value - 1),
    centrals: shells.pairs.map((value, i) => value * qc * shells.A_c[i]),
    satellites: shells.pairs.map((value, i) => value * qs * shells.A_s[i]),
  };
}

/** b^2 and K of the large scales, beyond 10 Mpc/h. */
function amplitudes(sums, z) {
  const bias = interpolated(DATA.large_scales.bias, z), alignment = interpolated(DATA.large_scales.alignment, z);
  return { xi: dot(bias, sums.xi), centrals: dot(alignment, sums.centrals), satellites: dot(alignment, sums.satellites) };
}

/** w_gg and w_g+ in some bins: what is within the nodes, and the large scales beyond. */
function projected(shells, sums, projection, theta) {
  const beyond = amplitudes(sums, theta.z);
  const part = ({ near, tail, pairs }, name, factor) => {
    const added = interpolated(tail, theta.z);
    const values = times(near, sums[name]).map((value, i) => factor * (value + beyond[name] * added[i]));
    return masked(values, times(pairs, shells.counts));
  };
  const centrals = part(projection.w_gplus, "centrals", theta.a_shape);
  const satellites = part(projection.w_gplus, "satellites", theta.a_shape);
  return {
    w_gg: { total: part(projection.w_gg, "xi", 1) },
    w_gplus: { total: centrals.map((value, i) => value + satellites[i]), centrals, satellites },
  };
}

/** chi^2 of each entry of a measurement, from the covariance of the data alone. */
function chi2Of(measurement, prediction) {
  return measurement.chi2.map(({ statistics, data, inverse_covariance }) => {
    const model = statistics.flatMap((name) => Array.from(prediction[name].total));
    const residuals = data.map((value, i) => value - model[i]);
    return { statistics, bins: data.length, chi2: dot(residuals, times(inverse_covariance, residuals)) };
  });
}

/** All that the page shows at some parameters: theta holds the seven, a_shape and z. */
function evaluate(theta, sample) {
  const shells = betweenNodes(theta);
  const [qc] = interpolated(DATA.q, theta.mu_cen), [qs] = interpolated(DATA.q, theta.mu_sat);
  const sums = projectable(shells, qc, qs), large = amplitudes(sums, theta.z), { bins } = sample;
  const inData = Object.fromEntries(
    Object.keys(bins).map((name) => [name, oriented(inBins(shells, bins[name]), qc, qs)[name]]),
  );
  const survey = projected(shells, sums, DATA.survey.projection, theta);
  const [growth] = interpolated(DATA.large_scales.growth, theta.z), b_g = Math.sqrt(large.xi);
  const K = theta.a_shape * (large.centrals + large.satellites);
  return {
    curves: {
      ...oriented(inBins(shells, DATA.bins), qc, qs),
      ...projected(shells, sums, DATA.projection, theta),
    },
    sample: inData,
    survey,
    chi2: { sample: chi2Of(sample, inData), survey: chi2Of(DATA.survey, survey) },
    derived: {
      n_gal: shells.n_gal, f_sat: shells.f_sat, q_cen: qc, q_sat: qs, b_g,
      A_IA: (DATA.of_A_IA * growth * K) / b_g,
    },
  };
}

/** The range of each parameter in the supported region, which depends on logMmin and on the redshift. */
function supportedRanges(theta) {
  const region = DATA.supports.find(({ low, high }) => low - 1e-9 <= theta.z && theta.z <= high + 1e-9);
  const limits = Object.entries(region.bounds.logMmin).map(([side, lines]) => [side, lines.map(([, offset]) => offset)]);
  const { low: [least], high: [largest] } = Object.fromEntries(limits);
  const logMmin = Math.min(Math.max(theta.logMmin, least), largest);
  const at = (lines) => lines.map(([slope, offset]) => slope * logMmin + offset);
  return Object.fromEntries(
    Object.entries(region.bounds).map(([name, { low, high }]) => [name, [Math.max(...at(low)), Math.min(...at(high))]]),
  );
}

/** Names of the parameters that are outside the supported region. */
function unsupported(theta) {
  const ranges = supportedRanges(theta);
  return Object.keys(ranges).filter(
    (name) => theta[name] < ranges[name][0] - 1e-9 || theta[name] > ranges[name][1] + 1e-9,
  );
}
