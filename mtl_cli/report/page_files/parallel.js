// Parallel coordinates: a line a run, from its settings to its scores. Dragging along an axis keeps the runs within.

const SVG = 'http://www.w3.org/2000/svg';
const BOX = { top: 64, bottom: 340, height: 380, side: 70, least: 118, most: 250 };
const MOST_AXES_AT_FIRST = 9;
const SEQUENCE = { light: ['#9ecae1', '#08306b'], dark: ['#2f5d86', '#e3f2ff'] };
const brushes = new Map();

function drawn(tag, attributes, ...children) {
  const element = document.createElementNS(SVG, tag);
  for (const [name, value] of Object.entries(attributes)) if (value !== null && value !== undefined) element.setAttribute(name, value);
  element.append(...children.filter((child) => child !== null));
  return element;
}

function possibleAxes() {
  return [
    ...DATA.settings.map(({ key, short }) => ({ key, title: short, hint: key, of: (run) => settingOf(run, key) })),
    ...COSTS.map((cost) => ({ key: cost.key, title: cost.title, hint: cost.axis, of: cost.of, count: true })),
    ...DATA.metrics.filter((metric) => metric.split === 'validation' || state.test === '1').map((metric) => ({
      key: metric.name,
      above: metric.task,
      title: metric.metric + (metric.split === 'test' ? ', test' : ''),
      hint: metric.name + (metric.lower ? ', lower is better' : ''),
      of: (run) => run.metrics[metric.name],
      main: metric.main && metric.split === 'validation',
    })),
  ];
}

// Settings that differ but for the seed, main metrics, and the score at the right end.
function axesAtFirst(possible, runs) {
  const differs = (axis) => new Set(runs.map((run) => JSON.stringify(axis.of(run)))).size > 1;
  const isSetting = (axis) => DATA.settings.some(({ key }) => key === axis.key) && axis.key !== 'seed';
  const settings = possible.filter((axis) => isSetting(axis) && differs(axis));
  const metrics = possible.filter((axis) => axis.main);
  const score = possible.filter((axis) => axis.key === SCORE);
  const room = Math.max(MOST_AXES_AT_FIRST - settings.length - score.length, 3);
  return [...settings.slice(0, MOST_AXES_AT_FIRST), ...metrics.slice(0, room), ...score].map((axis) => axis.key);
}

function hyperparametersView() {
  const runs = shownRuns().filter((run) => run.status === 'finished');
  const possible = possibleAxes();
  const first = axesAtFirst(possible, runs);
  const chosen = state.axes ? state.axes.split('|') : first;
  const axes = [...possible.filter((axis) => chosen.includes(axis.key) && axis.key !== SCORE), ...possible.filter((axis) => axis.key === SCORE && chosen.includes(SCORE))];
  const controls = make('div', { class: 'controls' },
    labelled('Colour', select([['group', 'by group'], ['score', 'by score']], state.colour, (colour) => change({ colour }))),
    axisChooser(possible, chosen, first));
  if (!runs.length) return [controls, noneFinished()];
  if (axes.length < 2) return [controls, empty('Choose two axes or more.')];
  const left = shownRuns().length - runs.length;
  const about = make('output', { class: 'about', 'aria-live': 'polite' });
  const place = make('div', { class: 'scroll parallel', tabIndex: 0, role: 'region', 'aria-label': 'Parallel coordinates' });
  requestAnimationFrame(() => drawParallel(place, about, runs, axes.map((axis) => scaled(axis, runs))));
  return [controls, noteOnShown(runs, left ? `${plural(left, 'ticked run')} not finished and left out. ` : null,
    'Drag along an axis to keep the runs within, click it to let go; the filters of the table do the same without a mouse.'),
  state.colour === 'score' ? scoreKey(runs) : groupKey(runs),
  make('h2', {}, 'Settings and scores of each run'), place, about];
}

function axisChooser(possible, chosen, first) {
  const box = make('details', { class: 'chooser' }, make('summary', {}, `Axes (${chosen.length} of ${possible.length})`));
  for (const axis of possible) {
    box.append(checkbox(axis.above ? `${axis.above}: ${axis.title}` : axis.title, chosen.includes(axis.key), (on) => {
      const next = possible.map(({ key }) => key).filter((key) => (key === axis.key ? on : chosen.includes(key)));
      change({ axes: next.join('|') === possible.map(({ key }) => key).filter((key) => first.includes(key)).join('|') ? '' : next.join('|') });
    }));
  }
  return box;
}

function scoreKey(runs) {
  const [low, high] = scoreLimits(runs);
  const [from, to] = SEQUENCE[theme()];
  return make('p', { class: 'note' }, 'score ', metricText(low), ' ',
    make('span', { class: 'ramp', style: { background: `linear-gradient(to right, ${from}, ${to})` } }), ' ', metricText(high));
}

function scoreLimits(runs) {
  const scores = runs.map((run) => run.metrics[SCORE]).filter(isNumber);
  return scores.length ? [Math.min(...scores), Math.max(...scores)] : [undefined, undefined];
}

function lineColour(run, limits) {
  if (state.colour !== 'score') return colourOf(run.group_index);
  const [low, high] = limits;
  const score = run.metrics[SCORE];
  if (!isNumber(score)) return colours().quiet;
  const part = high > low ? (score - low) / (high - low) : 1;
  const [from, to] = SEQUENCE[theme()].map((colour) => [1, 3, 5].map((at) => parseInt(colour.slice(at, at + 2), 16)));
  return `rgb(${from.map((channel, at) => Math.round(channel + part * (to[at] - channel))).join(',')})`;
}

// An axis with `at(run)`: the place of its value from 0 (bottom) to 1 (top), and ticks; numbers, or names evenly spaced.
function scaled(axis, runs) {
  const isMissing = (value) => value === undefined || value === null || value === '';
  const known = runs.map(axis.of).filter((value) => !isMissing(value));
  const missing = known.length < runs.length;
  const low = missing ? 0.1 : 0;
  if (known.length && known.every(isNumber)) return { ...axis, ...numbers(axis, known, low), missing };
  const names = [...new Set(known.map(settingText))].sort(compare);
  const spot = (name) => (names.length > 1 ? low + ((1 - low) * names.indexOf(name)) / (names.length - 1) : (1 + low) / 2);
  return {
    ...axis,
    missing,
    at: (run) => (isMissing(axis.of(run)) ? 0 : spot(settingText(axis.of(run)))),
    ticks: names.map((name) => [spot(name), shortened(name, 22)]),
  };
}

function numbers(axis, known, low) {
  const [least, largest] = [Math.min(...known), Math.max(...known)];
  const logarithmic = needsLogarithm(known);
  const scale = logarithmic ? Math.log : (value) => value;
  const span = scale(largest) - scale(least);
  const spot = (value) => (span > 0 ? low + ((1 - low) * (scale(value) - scale(least))) / span : (1 + low) / 2);
  const values = span > 0 ? ticksBetween(least, largest, logarithmic) : [least];
  return {
    at: (run) => (isNumber(axis.of(run)) ? spot(axis.of(run)) : 0),
    ticks: values.map((value) => [spot(value), axis.count ? countText(value) : String(Number(value.toPrecision(5)))]),
    logarithmic,
  };
}

function ticksBetween(least, largest, logarithmic) {
  if (logarithmic) {
    const found = [];
    for (let power = Math.floor(Math.log10(least)); power <= Math.ceil(Math.log10(largest)); power += 1) {
      for (const digit of [1, 2, 5]) found.push(Number(`${digit}e${power}`));
    }
    const inside = found.filter((value) => value >= least && value <= largest);
    const decades = inside.filter((value) => Number.isInteger(Math.log10(value)));
    return inside.length < 2 ? [least, largest] : inside.length > 7 && decades.length > 1 ? decades : inside;
  }
  const rough = (largest - least) / 5;
  const size = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 2.5, 5, 10].map((factor) => factor * size).find((candidate) => candidate >= rough);
  const found = [];
  for (let at = Math.ceil(least / step - 1e-9); at * step <= largest * (1 + 1e-12) + 1e-300; at += 1) found.push(at * step);
  return found.length < 2 ? [least, largest] : found;
}

function drawParallel(place, about, runs, axes) {
  if (!place.isConnected) return;
  const gap = Math.min(BOX.most, Math.max(BOX.least, (place.clientWidth - 2 * BOX.side) / (axes.length - 1)));
  const width = 2 * BOX.side + gap * (axes.length - 1);
  const svg = drawn('svg', { viewBox: `0 0 ${width} ${BOX.height}`, width, height: BOX.height, class: 'coordinates', role: 'img', 'aria-label': 'A line for each run over the axes' });
  const x = (place_) => BOX.side + gap * place_;
  const y = (part) => BOX.bottom - part * (BOX.bottom - BOX.top);
  const limits = scoreLimits(runs);
  const lines = new Map();
  for (const run of [...runs].sort((one, other) => compare(one.metrics[SCORE] ?? -1, other.metrics[SCORE] ?? -1))) {
    const path = `M${axes.map((axis, at) => `${x(at).toFixed(1)},${y(axis.at(run)).toFixed(1)}`).join('L')}`;
    lines.set(run, parallelLine(run, path, lineColour(run, limits), about, svg));
    svg.append(lines.get(run));
  }
  const update = () => {
    const inside = runs.filter((run) => axes.every((axis) => isWithin(axis, run)));
    for (const [run, line] of lines) line.classList.toggle('off', !inside.includes(run));
    about.textContent = inside.length < runs.length ? `${inside.length} of ${plural(runs.length, 'run')} within what is marked` : '';
  };
  axes.forEach((axis, at) => svg.append(parallelAxis(axis, x(at), y, gap, svg, update)));
  place.replaceChildren(svg);
  update();
}

function isWithin(axis, run) {
  const range = brushes.get(axis.key);
  return !range || (axis.at(run) >= range[0] - 1e-9 && axis.at(run) <= range[1] + 1e-9);
}

function parallelLine(run, path, colour, about, svg) {
  const hint = `${run.name}: score ${metricText(run.metrics[SCORE])}`;
  const group = drawn('g', { class: 'line', 'data-run': run.index },
    drawn('path', { d: path, class: 'hit' }), drawn('path', { d: path, class: 'seen', stroke: colour }), drawn('title', {}, hint));
  group.addEventListener('mouseenter', () => {
    svg.classList.add('hovered');
    group.classList.add('lifted');
    about.textContent = hint;
  });
  group.addEventListener('mouseleave', () => {
    svg.classList.remove('hovered');
    group.classList.remove('lifted');
  });
  group.addEventListener('click', () => change({ view: 'runs', run: run.name }));
  return group;
}

function parallelAxis(axis, x, y, gap, svg, update) {
  const group = drawn('g', { class: 'axis' });
  const wide = Math.floor(gap / 7);
  const title = shortened(axis.title + (axis.logarithmic ? ' (log)' : ''), wide);
  group.append(
    drawn('line', { x1: x, x2: x, y1: y(0), y2: y(1) }),
    axis.above ? drawn('text', { x, y: BOX.top - 34, class: 'title above' }, shortened(axis.above, wide)) : '',
    drawn('text', { x, y: BOX.top - 18, class: 'title' }, title, drawn('title', {}, axis.hint)),
  );
  for (const [part, text] of axis.ticks) group.append(drawn('text', { x: x + 6, y: y(part) + 4, class: 'tick' }, text));
  if (axis.missing) group.append(drawn('text', { x: x + 6, y: y(0) + 4, class: 'tick' }, 'not set'));
  group.append(brushOf(axis, x, y, svg, update));
  return group;
}

function brushOf(axis, x, y, svg, update) {
  const area = drawn('rect', { x: x - 14, y: BOX.top - 8, width: 28, height: BOX.bottom - BOX.top + 16, class: 'catch' });
  const mark = drawn('rect', { x: x - 7, width: 14, class: 'brush' });
  const show = () => {
    const range = brushes.get(axis.key);
    mark.setAttribute('y', range ? y(range[1]) : 0);
    mark.setAttribute('height', range ? y(range[0]) - y(range[1]) : 0);
    update();
  };
  const partAt = (event) => {
    const box = svg.getBoundingClientRect();
    const inside = ((event.clientY - box.top) * BOX.height) / box.height;
    return Math.min(1, Math.max(0, (BOX.bottom - inside) / (BOX.bottom - BOX.top)));
  };
  let start = null;
  area.addEventListener('pointerdown', (event) => {
    start = partAt(event);
    area.setPointerCapture(event.pointerId);
    event.preventDefault();
  });
  area.addEventListener('pointermove', (event) => {
    if (start === null) return;
    const now = partAt(event);
    if (Math.abs(now - start) > 0.01) brushes.set(axis.key, [Math.min(start, now), Math.max(start, now)]);
    show();
  });
  area.addEventListener('pointerup', (event) => {
    if (start !== null && Math.abs(partAt(event) - start) <= 0.01) brushes.delete(axis.key);
    start = null;
    show();
  });
  const range = brushes.get(axis.key);
  if (range) {
    mark.setAttribute('y', y(range[1]));
    mark.setAttribute('height', y(range[0]) - y(range[1]));
  }
  return drawn('g', {}, mark, area);
}
