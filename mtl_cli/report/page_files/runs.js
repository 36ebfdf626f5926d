// One run: what it was, how it scored, and its difference to another one.

function runsView() {
  const run = runNamed(state.run) ?? bestRun();
  const base = runNamed(state.base) ?? RUNS[DATA.baseline];
  const others = base.index === run.index ? null : base;
  return [runControls(run, base), runHead(run),
    make('div', { class: 'beside-each-other' }, runScores(run, others), runSettings(run, others)), runOverrides(run), runEnvironment(run, others)];
}

function bestRun() {
  const finished = RUNS.filter((run) => run.status === 'finished' && isNumber(run.metrics[SCORE]));
  return finished.length ? finished.reduce((one, other) => (other.metrics[SCORE] > one.metrics[SCORE] ? other : one)) : RUNS[0];
}

function runControls(run, base) {
  const options = RUNS.map((other) => [other.name, `${other.name}${other.status === 'finished' ? '' : ` (${other.status})`}`]);
  const step = (by) => change({ view: 'runs', run: RUNS[(run.index + by + RUNS.length) % RUNS.length].name });
  return make('div', { class: 'controls' },
    labelled('Run', select(options, run.name, (name) => change({ run: name }))),
    make('button', { type: 'button', onclick: () => step(-1) }, '← Previous'),
    make('button', { type: 'button', onclick: () => step(1) }, 'Next →'),
    labelled('Compared to', select(options, base.name, (name) => change({ base: name }))),
    make('button', {
      type: 'button',
      onclick: () => change({ view: 'curves', shown: new Set([run.index, base.index].filter((index) => RUNS[index].status !== 'broken')), q: '', filters: {} }),
    }, base === run ? 'Curves of this run alone' : 'Curves of these two'));
}

function facts(pairs) {
  return make('dl', { class: 'facts' }, pairs.filter(([, value]) => value !== undefined && value !== null && value !== '')
    .map(([name, value]) => [make('dt', {}, name), make('dd', {}, value)]));
}

function runHead(run) {
  const { cost, parameters } = run;
  return make('section', {}, make('h2', {}, breakable(run.name)), facts([
    ['status', [statusCell(run), run.status === 'finished' ? null : make('span', { class: 'quiet' }, ` ${STATUS[run.status]?.[1] ?? ''}`)]],
    ['problem', run.problem ? make('span', { class: 'problem' }, run.problem) : null],
    ['sweep', run.sweep],
    ['group', run.group_index === null ? null : GROUPS[run.group_index].label],
    ['started', run.created],
    ['training', [isNumber(cost.steps) ? `${exactText(cost.steps)} steps` : '', isNumber(cost.seconds) ? `${secondsText(cost.seconds)} seconds` : '',
      isNumber(cost.tokens) ? `${exactText(cost.tokens)} tokens` : '', isNumber(cost.tokens_per_second) ? `${exactText(Math.round(cost.tokens_per_second))} tokens a second` : '']
      .filter(Boolean).join(', ')],
    ['peak memory', isNumber(cost.peak_memory_bytes) ? `${countText(cost.peak_memory_bytes)}B` : null],
    ['parameters', isNumber(parameters.total) ? `${exactText(parameters.total)}, of which ${exactText(parameters.shared)} shared and ${exactText(parameters.task_specific)} of single tasks` : null],
    ['folder', make('code', {}, run.path)],
  ]));
}

function runScores(run, base) {
  const isKnown = (name) => isNumber(run.metrics[name]) || (base && isNumber(base.metrics[name]));
  const lines = new Map();
  for (const metric of DATA.metrics.filter(({ name }) => isKnown(name))) {
    const key = `${metric.task}/${metric.metric}`;
    if (!lines.has(key)) lines.set(key, { metric });
    lines.get(key)[metric.split] = metric.name;
  }
  const title = make('h2', {}, 'Scores');
  if (!lines.size) return make('section', {}, title, empty('It has not been evaluated yet.'));
  const columns = ['validation', 'test'].filter((split) => [...lines.values()].some((line) => line[split]));
  const head = make('tr', {}, ['task', 'metric'].map((text) => make('th', { scope: 'col' }, text)), columns.map((split) => [
    make('th', { scope: 'col', class: 'number' }, split),
    base ? [make('th', { scope: 'col', class: 'number' }, 'compared to'), make('th', { scope: 'col', class: 'number' }, 'difference')] : null,
  ]));
  const rows = [...lines.values()].map((line) => make('tr', { class: line.metric.main || !line.metric.task ? 'main' : '' },
    make('th', { scope: 'row' }, line.metric.task || 'all tasks'), make('td', {}, line.metric.metric + (line.metric.lower ? ' (lower is better)' : '')),
    columns.map((split) => scoreCells(run, base, line[split]))));
  const unfinished = run.status === 'finished' ? null : make('p', { class: 'note' }, 'The run has not come to its end: these are the figures of its last evaluation.');
  return make('section', {}, title, unfinished, make('div', { class: 'scroll' }, make('table', { class: 'grid', id: 'run-scores' },
    base ? make('caption', {}, `Compared to ${base.name}`) : null, make('thead', {}, head), make('tbody', {}, rows))));
}

function scoreCells(run, base, name) {
  const value = name ? run.metrics[name] : undefined;
  const cells = [make('td', { class: 'number' }, metricText(value))];
  if (!base) return cells;
  const other = name ? base.metrics[name] : undefined;
  const difference = isNumber(value) && isNumber(other) ? value - other : undefined;
  const isBetter = difference && (lowerIsBetter(name) ? difference < 0 : difference > 0);
  const text = isNumber(difference) ? `${difference > 0 ? '+' : difference < 0 ? '−' : '±'}${metricText(Math.abs(difference))}` : '–';
  const sign = !difference ? '' : isBetter ? ' better' : ' worse';
  cells.push(make('td', { class: 'number quiet' }, metricText(other)),
    make('td', { class: `number${sign}` }, text, sign ? make('span', { class: 'sign' }, sign) : null));
  return cells;
}

function runSettings(run, base) {
  const all = [...new Set([...Object.keys(DATA.same_settings), ...Object.keys(run.settings), ...(base ? Object.keys(base.settings) : [])])];
  const differs = (key) => base && JSON.stringify(settingOf(run, key)) !== JSON.stringify(settingOf(base, key));
  const among = DATA.settings.map(({ key }) => key);
  // Without another run to compare to: what tells this run from any of the page.
  const differing = base ? all.filter(differs) : all.filter((key) => among.includes(key));
  const keys = (state.all === '1' ? all : differing).sort(compare);
  const head = make('tr', {}, make('th', { scope: 'col' }, 'setting'), make('th', { scope: 'col' }, 'this run'), base ? make('th', { scope: 'col' }, 'compared to') : null);
  const cell = (owner, key) => make('td', { class: settingOf(owner, key) === undefined ? 'absent' : '' }, breakable(plainSetting(settingOf(owner, key)), /(?<=[.,/])/));
  const rows = keys.map((key) => make('tr', { class: differs(key) ? 'main' : '' }, make('th', { scope: 'row' }, breakable(key, /(?<=[.])/)), cell(run, key), base ? cell(base, key) : null));
  const title = base ? `Settings: ${plural(differing.length, 'difference')} to ${base.name}` : 'Settings that differ among the runs';
  return make('section', {}, make('h2', {}, title),
    checkbox(`All ${all.length} settings`, state.all === '1', (on) => change({ all: on ? '1' : '' })),
    rows.length ? make('div', { class: 'scroll' }, make('table', { class: 'grid settings', id: 'run-settings' }, make('thead', {}, head), make('tbody', {}, rows)))
      : empty(all.length ? 'None of the settings differ.' : 'Its settings cannot be read.'));
}

// In full, unlike in labels: the class of a `_target_` with its path.
function plainSetting(value) {
  if (value === undefined) return 'not set';
  return typeof value === 'string' ? value : JSON.stringify(value);
}

function runOverrides(run) {
  return make('section', {}, make('h2', {}, 'Given on the command line'),
    run.overrides.length ? make('ul', { class: 'words' }, run.overrides.map((word) => make('li', {}, make('code', {}, word)))) : empty('Nothing was changed.'));
}

function runEnvironment(run, base) {
  const names = [...new Set([...Object.keys(run.environment), ...(base ? Object.keys(base.environment) : [])])];
  const note = (name) => base && name !== 'started' && name !== 'command' && run.environment[name] !== base.environment[name]
    ? make('span', { class: 'quiet' }, ` (${base.name}: ${base.environment[name] ?? 'unknown'})`) : null;
  return make('section', {}, make('h2', {}, 'Environment'), names.length
    ? facts(names.map((name) => [name, [run.environment[name] ?? 'unknown', note(name)]])) : empty('environment.json cannot be read.'));
}
