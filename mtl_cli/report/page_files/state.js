// What is shown: kept in the address after `#`, so that a view can be linked, and told to whoever draws it.

const VIEWS = ['table', 'curves', 'scores', 'trade-offs', 'hyperparameters', 'runs'];
const MOST_SHOWN_AT_FIRST = 24;

const DEFAULTS = {
  view: 'table',
  run: '', // name of the run of the view "runs"
  base: '', // name of the run that it is compared to
  q: '', // text filter of the table
  sort: METRICS.has(SCORE) ? `-m.${SCORE}` : '', // column of the table, "-" before it for descending
  test: '', // "1": metrics of the test split are shown
  metric: '', // of the curves
  x: 'step',
  smooth: '3',
  seeds: RUNS.length > 12 && GROUPS.some((group) => group.runs.length > 1) ? 'mean' : 'each', // a curve each, or their mean
  bars: 'zero',
  by: '',
  first: '',
  second: '',
  points: 'runs',
  cost: '',
  axes: '',
  colour: 'group',
  all: '', // "1": all settings of a run
};

const state = { ...DEFAULTS, filters: {}, shown: new Set() };
const listeners = [];

function readAddress() {
  const given = new URLSearchParams(location.hash.slice(1));
  for (const key of Object.keys(DEFAULTS)) state[key] = given.get(key) ?? DEFAULTS[key];
  state.filters = {};
  for (const [key, value] of given) if (key.startsWith('f.')) state.filters[key.slice(2)] = value;
  state.shown = given.has('shown') ? fromRanges(given.get('shown')) : shownAtFirst();
  // `#curves` and `#run=NAME` alone say enough.
  for (const view of VIEWS) if (given.has(view)) state.view = view;
  if (given.has('run') && !given.has('view')) state.view = 'runs';
  if (!VIEWS.includes(state.view)) state.view = DEFAULTS.view;
}

function address(changes = {}) {
  const next = { ...state, ...changes };
  const words = new URLSearchParams();
  for (const [key, value] of Object.entries(DEFAULTS)) if (next[key] !== value) words.set(key, next[key]);
  for (const [key, value] of Object.entries(next.filters)) words.set(`f.${key}`, value);
  const shown = toRanges(next.shown);
  if (shown !== toRanges(shownAtFirst())) words.set('shown', shown);
  return `#${words}`;
}

// Changes what is shown. Another view or run is a step that the browser's back button takes back; the rest is not.
function change(changes) {
  const isStep = ['view', 'run'].some((key) => key in changes && changes[key] !== state[key]);
  Object.assign(state, changes);
  const next = address();
  if (next !== location.hash && !(next === '#' && !location.hash)) {
    if (isStep) history.pushState(null, '', next);
    else history.replaceState(null, '', next);
  }
  listeners.forEach((listener) => listener(Object.keys(changes)));
}

// At first the plots show every run, or of very many the groups with the best mean scores and that of the baseline.
function shownAtFirst() {
  const able = RUNS.filter((run) => run.status !== 'broken').map((run) => run.index);
  if (able.length <= MOST_SHOWN_AT_FIRST) return new Set(able);
  const score = (group) => group.means[SCORE]?.[0] ?? -Infinity;
  const isOfBaseline = (group) => group.runs.includes(DATA.baseline);
  const ordered = [...GROUPS].sort((one, other) => isOfBaseline(other) - isOfBaseline(one) || score(other) - score(one));
  const shown = new Set();
  // Whole groups: the best seeds alone would flatter theirs.
  for (const group of ordered) {
    const runs = group.runs.filter((index) => RUNS[index].status !== 'broken');
    if (!shown.size || shown.size + runs.length <= MOST_SHOWN_AT_FIRST) runs.forEach((index) => shown.add(index));
  }
  return shown;
}

// 0-3.7: runs by their places.
function toRanges(numbers) {
  const sorted = [...numbers].sort((a, b) => a - b);
  const parts = [];
  sorted.forEach((number, place) => {
    if (place && number === sorted[place - 1] + 1) parts[parts.length - 1][1] = number;
    else parts.push([number, number]);
  });
  return parts.map(([first, last]) => (first === last ? `${first}` : `${first}-${last}`)).join('.') || 'none';
}

function fromRanges(text) {
  const found = new Set();
  for (const part of text.split('.')) {
    const [first, last] = part.split('-').map(Number);
    for (let index = first; index <= (last ?? first) && index < RUNS.length; index += 1) if (index >= 0) found.add(index);
  }
  return found;
}

// The filters of the table.
function passes(run) {
  const words = state.q.toLowerCase().split(/\s+/).filter(Boolean);
  if (words.length) {
    const text = [run.name, run.sweep, run.status, run.problem ?? '', ...run.overrides,
      ...DATA.settings.map(({ key }) => settingText(settingOf(run, key)))].join(' ').toLowerCase();
    if (!words.every((word) => text.includes(word))) return false;
  }
  return Object.entries(state.filters).every(([key, value]) => filterValue(run, key) === value);
}

function filterValue(run, key) {
  if (key === 'status') return run.status;
  return key === 'sweep' ? run.sweep : settingText(settingOf(run, key));
}

// What the plots show: ticked runs that the filters of the table let through.
function shownRuns() {
  return RUNS.filter((run) => state.shown.has(run.index) && passes(run));
}

function runNamed(name) {
  return RUNS.find((run) => run.name === name);
}

// Light or dark: as the system has it, until the button says otherwise.
const prefersDark = matchMedia('(prefers-color-scheme: dark)');

function theme() {
  return document.documentElement.dataset.theme ?? (prefersDark.matches ? 'dark' : 'light');
}

function toggleTheme() {
  const next = theme() === 'dark' ? 'light' : 'dark';
  document.documentElement.dataset.theme = next;
  try {
    localStorage.setItem('mtl-compare-theme', next);
  } catch {
    // Pages from disk may have no storage: the choice lasts as long as the page.
  }
  change({ theme: next });
}

try {
  const kept = localStorage.getItem('mtl-compare-theme');
  if (kept === 'light' || kept === 'dark') document.documentElement.dataset.theme = kept;
} catch {
  // As above.
}
