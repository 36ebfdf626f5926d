// Learning curves of each task, loss weights and conflicts of gradients over training; runs overlaid and smoothed.

const X_AXES = { step: 'optimizer steps', tokens: 'real tokens seen', epoch: 'epochs' };
const MOST_PAIRS = 6;
const MOST_WITH_RAW = 30;

// Exponential moving average over x, without the bias towards its start: each value counts exp(-distance / scale).
function smoothed(xs, ys, scale) {
  if (!(scale > 0)) return ys;
  let sum = 0;
  let weight = 0;
  let previous = null;
  return ys.map((y, place) => {
    const decay = previous === null ? 1 : Math.exp(-(xs[place] - previous) / scale);
    previous = xs[place];
    sum = sum * decay + y;
    weight = weight * decay + 1;
    return sum / weight;
  });
}

// Places and values of a metric where both are known.
function pointsOf(run, part, name) {
  const { axes, values } = run.curves[part];
  const [xs, ys] = [axes[state.x] ?? [], values[name] ?? []];
  const kept = ys.map((_, place) => place).filter((place) => isNumber(ys[place]) && isNumber(xs[place]));
  return { xs: kept.map((place) => xs[place]), ys: kept.map((place) => ys[place]) };
}

function interpolated(xs, ys, x) {
  if (x < xs[0] || x > xs[xs.length - 1]) return null;
  let low = 0;
  let high = xs.length - 1;
  while (high - low > 1) {
    const middle = (low + high) >> 1;
    if (xs[middle] <= x) low = middle;
    else high = middle;
  }
  if (xs[high] === xs[low]) return ys[low];
  return ys[low] + ((ys[high] - ys[low]) * (x - xs[low])) / (xs[high] - xs[low]);
}

// Mean, lowest and highest of the curves of several seeds, at the places of the longest as far as all of them reach.
function overSeeds(curves) {
  const grid = curves.reduce((one, other) => (other.xs.length > one.xs.length ? other : one)).xs;
  const found = { xs: [], mean: [], low: [], high: [] };
  for (const x of grid) {
    const ys = curves.map((curve) => interpolated(curve.xs, curve.ys, x));
    if (ys.includes(null)) continue;
    found.xs.push(x);
    found.mean.push(ys.reduce((sum, y) => sum + y, 0) / ys.length);
    found.low.push(Math.min(...ys));
    found.high.push(Math.max(...ys));
  }
  return found;
}

function longest(runs, part, nameOf) {
  return Math.max(0, ...runs.map((run) => pointsOf(run, part, nameOf(run)).xs.at(-1) ?? 0));
}

// Traces of one metric: a curve a run, or the mean and the range of each group's seeds.
function curveTraces(runs, part, nameOf) {
  const scale = (Number(state.smooth) / 100) * longest(runs, part, nameOf);
  const traces = [];
  if (state.seeds === 'mean') {
    for (const group of groupsOf(runs)) {
      const curves = oneASeed(group.runs).map((run) => pointsOf(run, part, nameOf(run))).filter(({ xs }) => xs.length);
      if (curves.length) traces.push(...meanTraces(group, overSeeds(curves), curves.length, scale));
    }
    return traces;
  }
  for (const run of runs) {
    const { xs, ys } = pointsOf(run, part, nameOf(run));
    if (!xs.length) continue;
    const colour = colourOf(run.group_index);
    if (scale > 0 && xs.length > 2 && runs.length <= MOST_WITH_RAW) {
      traces.push({ x: xs, y: ys, mode: 'lines', line: { color: faded(colour, 0.22), width: 1 }, hoverinfo: 'skip' });
    }
    traces.push(lineTrace(xs, smoothed(xs, ys, scale), colour, dashOf(run), runLabel(run)));
  }
  return traces;
}

function lineTrace(x, y, color, dash, label) {
  return {
    x,
    y,
    mode: x.length > 1 ? 'lines' : 'markers',
    line: { color, dash, width: 1.8 },
    marker: { color },
    name: plotText(label),
    hovertemplate: '%{y:.4g} at %{x:,.4~g}<extra>%{fullData.name}</extra>',
  };
}

function meanTraces(group, { xs, mean, low, high }, count, scale) {
  const colour = colourOf(group.index);
  const [top, bottom] = [smoothed(xs, high, scale), smoothed(xs, low, scale)];
  const band = {
    x: [...xs, ...[...xs].reverse()],
    y: [...top, ...[...bottom].reverse()],
    mode: 'lines',
    fill: 'toself',
    fillcolor: faded(colour, 0.16),
    line: { width: 0 },
    hoverinfo: 'skip',
  };
  const label = `${group.label} (${plural(count, 'seed')})`;
  return [...(count > 1 ? [band] : []), lineTrace(xs, smoothed(xs, mean, scale), colour, dashOf(group.runs[0], true), label)];
}

// The runs that a mean is over: finished ones where there are any, and each seed once.
function oneASeed(runs) {
  const finished = runs.filter((run) => run.status === 'finished');
  const found = new Map();
  for (const run of finished.length ? finished : runs) {
    // A run that names no seed is a draw of its own.
    const seed = JSON.stringify(settingOf(run, 'seed') ?? `of ${run.index}`);
    const isCounted = run.group_index !== null && GROUPS[run.group_index].counted.includes(run.index);
    if (!found.has(seed) || isCounted) found.set(seed, run);
  }
  return [...found.values()];
}

// Shown runs by their group, in the order of the groups.
function groupsOf(runs) {
  return GROUPS.map((group) => ({ ...group, runs: runs.filter((run) => run.group_index === group.index) }))
    .filter((group) => group.runs.length);
}

function curveFigure(runs, title, unit, part, nameOf, axis = {}) {
  const height = 300;
  return figure(title, height, () => ({
    traces: curveTraces(runs, part, nameOf),
    layout: layoutOf({ x: { title: X_AXES[state.x], rangemode: 'tozero' }, y: { title: unit, ...axis }, height }),
  }));
}

const hasCurve = (runs, part, name) => runs.some((run) => pointsOf(run, part, name).xs.length);

function keysBelow(runs, prefix) {
  return [...new Set(runs.flatMap((run) => Object.keys(run.curves.train.values).filter((key) => key.startsWith(prefix))))];
}

function curvesView() {
  const runs = shownRuns();
  const sections = [curveControls(runs)];
  if (!runs.length) return [...sections, empty('No run is shown: tick some in the table.')];
  sections.push(noteOnShown(runs, seedsNote(runs), thinningNote(runs)), curveLegend(runs));
  const parts = [
    ['Losses and metrics', learningFigures(runs), 'No shown run has logged a loss or an evaluation yet.'],
    ['Weights of the losses', weightFigures(runs), 'No shown run has logged weights of losses.'],
    ['Conflict of gradients', conflictFigures(runs),
      'The gradients of the tasks were not looked at. Weightings that work on gradients do, and others with weighting.track_conflict_every.'],
  ];
  for (const [title, figures, without] of parts) {
    sections.push(make('section', {}, make('h2', {}, title),
      figures.length ? make('div', { class: figures === parts[0][1] ? 'plots pairs' : 'plots' }, figures) : empty(without)));
  }
  return sections;
}

function seedsNote(runs) {
  if (state.seeds !== 'mean') return null;
  const left = runs.length - groupsOf(runs).flatMap((group) => oneASeed(group.runs)).length;
  return ['A mean reaches as far as all of its runs do; it is over finished runs, each seed once',
    left ? `, which leaves ${plural(left, 'run')} out. ` : '. '];
}

function thinningNote(runs) {
  const { most } = DATA.thinning;
  const lines = Math.max(0, ...runs.flatMap((run) => Object.values(run.curves).map((part) => part.num_lines)));
  return lines > most
    ? `Curves of more than ${most} points (the longest has ${lines.toLocaleString('en')}) show means of neighbours; the first and the last point are as measured. `
    : null;
}

function curveControls(runs) {
  const metrics = [...new Set(DATA.metrics.filter((metric) => metric.split === 'validation' && metric.task).map((metric) => metric.metric))];
  const slider = make('input', { type: 'range', min: '0', max: '30', step: '0.5', onchange: () => change({ smooth: slider.value }) });
  slider.value = state.smooth;
  const shownValue = make('output', {}, `${state.smooth} %`);
  slider.addEventListener('input', () => { shownValue.textContent = `${slider.value} %`; });
  slider.setAttribute('aria-label', 'Smoothing, in per cent of training');
  const repeats = groupsOf(runs).some((group) => group.runs.length > 1);
  return make('div', { class: 'controls' },
    labelled('Metric', select([['', 'main metric'], ...metrics.map((name) => [name, name])], state.metric, (metric) => change({ metric }))),
    labelled('Over', select(Object.entries(X_AXES), state.x, (x) => change({ x }))),
    make('label', { class: 'control', title: 'Scale of the exponential moving average, in per cent of training; as measured is faint' },
      make('span', {}, 'Smoothing'), make('span', { class: 'beside' }, slider, shownValue)),
    repeats ? labelled('Seeds', select([['each', 'a curve each'], ['mean', 'mean, and lowest to highest']], state.seeds, (seeds) => change({ seeds }))) : null);
}

function curveLegend(runs) {
  if (state.seeds === 'mean') {
    return legend(groupsOf(runs).map((group) => ({
      label: `${group.label} (${plural(oneASeed(group.runs).length, 'seed')})`,
      group: group.index,
      dash: dashOf(group.runs[0], true),
      runs: group.runs.map((run) => run.index),
    })));
  }
  const ordered = groupsOf(runs).flatMap((group) => group.runs);
  return legend(ordered.map((run) => ({ label: runLabel(run), group: run.group_index, dash: dashOf(run), runs: [run.index] })));
}

function learningFigures(runs) {
  const figures = [];
  for (const task of DATA.tasks) {
    const loss = `train/loss/${task}`;
    if (hasCurve(runs, 'train', loss)) {
      figures.push(curveFigure(runs, `${task}: training loss`, 'loss (mean over valid labels)', 'train', () => loss));
    }
    const nameOf = (run) => `validation/${task}/${state.metric || run.main_metrics[task]}`;
    if (runs.some((run) => pointsOf(run, 'validation', nameOf(run)).xs.length)) {
      const names = [...new Set(runs.map((run) => state.metric || run.main_metrics[task]).filter(Boolean))];
      figures.push(curveFigure(runs, `${task}: ${names.join(' or ')} on validation`, names.join(' or '), 'validation', nameOf));
    }
  }
  if (hasCurve(runs, 'validation', SCORE)) {
    figures.push(curveFigure(runs, 'Score: mean of the main metrics on validation', 'score', 'validation', () => SCORE));
  }
  return figures;
}

function weightFigures(runs) {
  return DATA.tasks.filter((task) => hasCurve(runs, 'train', `train/weight/${task}`))
    .map((task) => curveFigure(runs, `${task}: weight of its loss`, 'weight', 'train', () => `train/weight/${task}`));
}

function conflictFigures(runs) {
  const figures = [];
  if (hasCurve(runs, 'train', 'train/conflict_rate')) {
    figures.push(curveFigure(runs, 'Conflict rate: share of negative cosines between the gradients of two tasks',
      'conflict rate', 'train', () => 'train/conflict_rate', { rangemode: 'tozero' }));
  }
  const pairs = keysBelow(runs, 'train/cosine/');
  for (const key of pairs.slice(0, MOST_PAIRS)) {
    const tasks = key.slice('train/cosine/'.length).split('/').join(' and ');
    figures.push(curveFigure(runs, `${tasks}: cosine of their gradients`, 'cosine (negative: conflict)', 'train', () => key));
  }
  if (pairs.length > MOST_PAIRS) figures.push(otherPairs(runs, pairs.slice(MOST_PAIRS)));
  for (const task of DATA.tasks) {
    const key = `train/grad_norm/${task}`;
    if (hasCurve(runs, 'train', key)) figures.push(curveFigure(runs, `${task}: norm of its gradient`, 'norm', 'train', () => key));
  }
  return figures;
}

// Pairs grow with the square of the tasks: the rest is drawn when it is unfolded.
function otherPairs(runs, keys) {
  const inside = make('div', { class: 'plots' });
  const box = make('details', { class: 'wide' }, make('summary', {}, `${keys.length} more pairs of tasks`), inside);
  box.addEventListener('toggle', () => {
    if (!box.open || inside.childElementCount) return;
    for (const key of keys) {
      const tasks = key.slice('train/cosine/'.length).split('/').join(' and ');
      inside.append(curveFigure(runs, `${tasks}: cosine of their gradients`, 'cosine (negative: conflict)', 'train', () => key));
    }
  });
  return box;
}
