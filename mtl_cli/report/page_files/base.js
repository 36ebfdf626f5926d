// The data of the page, elements of HTML, and how numbers, settings and groups are written.

const DATA = JSON.parse(document.getElementById('data').textContent);
const RUNS = DATA.runs;
const GROUPS = DATA.groups;
RUNS.forEach((run, index) => { run.index = index; });
GROUPS.forEach((group, index) => { group.index = index; });

const METRICS = new Map(DATA.metrics.map((metric) => [metric.name, metric]));
const SCORE = 'validation/score';
const COSTS = [
  { key: 'tokens', title: 'tokens', axis: 'real tokens seen in training', of: (run) => run.cost.tokens, integer: true },
  { key: 'seconds', title: 'seconds', axis: 'seconds of training and validation', of: (run) => run.cost.seconds },
  { key: 'parameters', title: 'parameters', axis: 'parameters', of: (run) => run.parameters.total, integer: true },
];
const STATUS = {
  finished: ['●', 'finished'],
  running: ['▶', 'running, or killed'],
  interrupted: ['❚❚', 'interrupted; it can be resumed'],
  failed: ['✖', 'failed'],
  broken: ['▲', 'broken: its folder cannot be read as a run'],
};

// Returns an element. Text comes in as children and stays text; no data is ever parsed as markup.
function make(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (value === undefined || value === null || value === false) continue;
    if (name.startsWith('on')) element.addEventListener(name.slice(2), value);
    else if (name === 'style') Object.entries(value).forEach(([key, item]) => element.style.setProperty(key, item));
    else if (name in element && typeof value !== 'string') element[name] = value;
    else element.setAttribute(name, value);
  }
  element.append(...children.flat(Infinity).filter((child) => child !== null && child !== undefined && child !== false));
  return element;
}

// A label around a control, such as a select of [value, text] pairs.
function labelled(text, control) {
  return make('label', { class: 'control' }, make('span', {}, text), control);
}

function select(options, chosen, onChange) {
  const control = make('select', { onchange: () => onChange(control.value) });
  for (const [value, text] of options) control.append(make('option', { value, selected: value === chosen }, text));
  return control;
}

function checkbox(text, checked, onChange) {
  const box = make('input', { type: 'checkbox', checked, onchange: () => onChange(box.checked) });
  return make('label', { class: 'control check' }, box, make('span', {}, text));
}

// Plotly reads a little markup in texts and `%{...}` in templates: data is escaped for it.
function plotText(text) {
  return String(text).replace(/&/g, '&amp;').replace(/</g, '&lt;').replace(/>/g, '&gt;').replace(/%\{/g, '%&#123;');
}

function shortened(text, most) {
  return text.length <= most ? text : `${text.slice(0, Math.ceil(most / 2) - 1)}…${text.slice(-Math.floor(most / 2))}`;
}

// A name that may be broken at its commas, or a dotted path after its dots.
function breakable(text, after = /(?<=[,/])/) {
  return text.split(after).flatMap((part) => [part, make('wbr')]);
}

const isNumber = (value) => typeof value === 'number' && Number.isFinite(value);

// 0.8734, 12.3, 1,234: metrics with four decimals, as in the terminal.
function metricText(value) {
  if (!isNumber(value)) return '–';
  return Math.abs(value) < 1000 ? value.toFixed(4) : value.toPrecision(6);
}

// 12.3 M, 1.61 M, 824: what a cell has room for; the exact number goes into its hint.
function countText(value) {
  if (!isNumber(value)) return '–';
  for (const [size, unit] of [[1e12, 'T'], [1e9, 'G'], [1e6, 'M'], [1e3, 'k']]) {
    if (value >= size) return `${(value / size).toPrecision(3)} ${unit}`;
  }
  return Number.isInteger(value) ? String(value) : value.toPrecision(3);
}

function secondsText(value) {
  if (!isNumber(value)) return '–';
  return value < 100 ? value.toFixed(1) : Math.round(value).toLocaleString('en');
}

const exactText = (value) => (isNumber(value) ? value.toLocaleString('en', { maximumFractionDigits: 6 }) : '');

// A setting as a person would type it; of a class's path the class alone.
function settingText(value) {
  if (value === undefined) return 'not set';
  if (value === null) return 'null';
  if (typeof value === 'string') return value.startsWith('mtl_cli.') ? value.slice(value.lastIndexOf('.') + 1) : value;
  if (Array.isArray(value)) return `[${value.map(settingText).join(',')}]`;
  if (typeof value === 'number' && !Number.isInteger(value)) return String(Number(value.toPrecision(6)));
  return typeof value === 'object' ? JSON.stringify(value) : String(value);
}

// Settings that all runs share are said once in the data. Broken runs may have none at all.
function settingOf(run, key) {
  if (key in run.settings) return run.settings[key];
  return run.status === 'broken' && !Object.keys(run.settings).length ? undefined : DATA.same_settings[key];
}

function compare(first, second) {
  if (isNumber(first) && isNumber(second)) return first - second;
  return String(first).localeCompare(String(second), 'en', { numeric: true });
}

const lowerIsBetter = (name) => Boolean(METRICS.get(name)?.lower);

// "sentiment: accuracy", "score (mean of main metrics)".
function metricTitle(name) {
  const metric = METRICS.get(name);
  if (!metric) return name;
  const test = metric.split === 'test' ? ', test' : '';
  if (!metric.task) return metric.metric === 'score' ? `score${test}` : `${metric.metric}${test}`;
  return `${metric.task}: ${metric.metric}${test}`;
}

function plural(count, one, many = `${one}s`) {
  return `${count.toLocaleString('en')} ${count === 1 ? one : many}`;
}

// The first four after Okabe and Ito (2008), the others chosen to be as far from these as may be, also as people with
// protanopia, deuteranopia or tritanopia see them; a second set of the same kind for dark grounds. After eight groups
// the colours come again, with other dashes and marks.
const COLOURS = {
  light: ['#0072b2', '#d55e00', '#009e73', '#cc79a7', '#7b2fd0', '#6f1f0f', '#3fa9e0', '#363649'],
  dark: ['#4c9fe0', '#f0803c', '#2fc597', '#e8a5c8', '#a45cff', '#f2e94e', '#8f6236', '#bfe6ff'],
};
const NO_GROUP = { light: '#6e6e6e', dark: '#a8a8a8' };
const MARKS = ['circle', 'square', 'diamond', 'triangle-up', 'cross', 'x', 'star', 'hexagon'];
const DASHES = ['solid', 'dash', 'dot', 'dashdot'];

// Runs of one group share a colour on all plots, whatever else is shown; broken runs have none.
function colourOf(groupIndex) {
  const colours = COLOURS[theme()];
  return groupIndex === null || groupIndex === undefined ? NO_GROUP[theme()] : colours[groupIndex % colours.length];
}

const markOf = (groupIndex) => MARKS[(Math.floor((groupIndex ?? 0) / 8) + (groupIndex ?? 0)) % MARKS.length];

// Curves of one group differ in their dashes where each run has a curve of its own; else rounds of colours do.
function dashOf(run, ofMean = false) {
  const round = Math.floor((run.group_index ?? 0) / COLOURS.light.length);
  const seed = ofMean || run.group_index === null ? 0 : GROUPS[run.group_index].runs.indexOf(run.index);
  return DASHES[(round + seed) % DASHES.length];
}

function runLabel(run) {
  const group = run.group_index === null ? null : GROUPS[run.group_index];
  if (!group || group.runs.length < 2) return run.name;
  const seed = settingOf(run, 'seed');
  const again = group.runs.some((index) => index !== run.index && settingOf(RUNS[index], 'seed') === seed);
  return seed === undefined ? run.name : `${group.label}, seed ${settingText(seed)}${again ? ` (${run.name})` : ''}`;
}
