// One row a run: status, what differs, scores and cost. Sortable, filterable; ticks choose what the plots show.

const MOST_VALUES_OF_A_FILTER = 40;

function tableColumns() {
  const columns = [
    { key: 'name', head: ['', 'run'], of: (run) => run.name, cell: nameCell, text: true },
    { key: 'status', head: ['', 'status'], of: (run) => run.status, cell: statusCell, text: true },
    ...DATA.settings.map(({ key, short }) => ({
      key: `s.${key}`,
      head: ['', short],
      hint: key,
      of: (run) => settingOf(run, key),
      cell: (run) => settingText(settingOf(run, key)),
      absent: (run) => settingOf(run, key) === undefined,
    })),
  ];
  for (const metric of DATA.metrics) {
    const isShown = metric.main || metric.name === SCORE;
    if (!isShown || (metric.split === 'test' && state.test !== '1')) continue;
    columns.push({
      key: `m.${metric.name}`,
      head: [metric.task + (metric.split === 'test' ? ' (test)' : ''), metric.metric],
      hint: metric.name === SCORE ? 'mean of the main metrics of all tasks on validation' : metric.name,
      of: (run) => run.metrics[metric.name],
      cell: (run) => metricText(run.metrics[metric.name]),
      number: true,
      lower: metric.lower,
      best: true,
    });
  }
  for (const cost of COSTS) {
    columns.push({
      key: `c.${cost.key}`,
      head: ['', cost.title],
      hint: cost.axis,
      of: cost.of,
      cell: (run) => (cost.key === 'seconds' ? secondsText : countText)(cost.of(run)),
      number: true,
      lower: true,
      exact: true,
    });
  }
  return columns;
}

function nameCell(run) {
  const link = make('a', { href: address({ view: 'runs', run: run.name }) }, breakable(run.name));
  const problem = run.problem ? make('div', { class: 'problem', title: run.problem }, shortened(run.problem, 160)) : null;
  const sign = state.shown.has(run.index) && run.group_index !== null ? swatch(run.group_index, dashOf(run)) : make('span', { class: 'swatch' });
  return [make('div', { class: 'name' }, sign, link), problem];
}

function statusCell(run) {
  const [sign, meaning] = STATUS[run.status] ?? ['', run.status];
  return make('span', { class: `status ${run.status}`, title: meaning }, `${sign} ${run.status}`);
}

// What was not measured comes last whichever way is sorted.
function sorted(runs, columns) {
  const descending = state.sort.startsWith('-');
  const column = columns.find(({ key }) => key === state.sort.replace(/^-/, ''));
  if (!column) return runs;
  const isMissing = (value) => value === undefined || value === null || value === '';
  return [...runs].sort((first, second) => {
    const [one, other] = [column.of(first), column.of(second)];
    if (isMissing(one) || isMissing(other)) return isMissing(one) - isMissing(other);
    return descending ? compare(other, one) : compare(one, other);
  });
}

// The best of the finished runs: what an unfinished one measured last was not measured with its best weights.
function bestOf(column) {
  const values = RUNS.filter((run) => run.status === 'finished').map(column.of).filter(isNumber);
  return values.length > 1 ? Math[column.lower ? 'min' : 'max'](...values) : undefined;
}

function tableView() {
  const columns = tableColumns();
  const runs = sorted(RUNS.filter(passes), columns);
  const body = make('tbody');
  const best = new Map(columns.filter((column) => column.best).map((column) => [column.key, bestOf(column)]));
  for (const run of runs) body.append(tableRow(run, columns, best));
  const longest = Math.max(...RUNS.map((run) => run.name.length));
  const table = make('table', { class: 'grid', id: 'runs-table', style: { '--name': `${Math.round(0.84 * Math.min(longest, 64)) + 7}ch` }, 'aria-describedby': 'about-table' }, tableHead(columns, runs), body);
  const about = make('p', { class: 'note', id: 'about-table' }, aboutTable(runs));
  return [filterBar(), tickBar(runs), about, make('div', { class: 'scroll', tabIndex: 0, role: 'region', 'aria-label': 'Table of runs' }, table)];
}

function aboutTable(runs) {
  const unfinished = runs.some((run) => run.status !== 'finished' && Object.keys(run.metrics).length);
  return [`${runs.length} of ${plural(RUNS.length, 'run')}. Scores are on validation, with the best weights; `,
    'the best of each column is bold and has a ★. ',
    unfinished ? 'In italics: the last evaluation of a run that is not finished.' : null];
}

function tableRow(run, columns, best) {
  const box = make('input', {
    type: 'checkbox',
    checked: state.shown.has(run.index),
    disabled: run.status === 'broken',
    'aria-label': `Show ${run.name} in the plots`,
    onchange: () => {
      const shown = new Set(state.shown);
      shown[box.checked ? 'add' : 'delete'](run.index);
      change({ shown });
    },
  });
  const row = make('tr', { class: run.status, 'data-run': String(run.index) }, make('td', { class: 'tick' }, box));
  for (const column of columns) {
    const value = column.of(run);
    const isBest = run.status === 'finished' && isNumber(value) && value === best.get(column.key);
    const classes = [column.number ? 'number' : '', isBest ? 'best' : '', column.absent?.(run) ? 'absent' : ''];
    const cell = make(column.key === 'name' ? 'th' : 'td', {
      class: classes.filter(Boolean).join(' '),
      scope: column.key === 'name' ? 'row' : null,
      title: column.exact ? exactText(value) : isBest ? 'best of the finished runs' : null,
    }, column.cell(run), isBest ? make('span', { class: 'star' }, ' ★') : null);
    row.append(cell);
  }
  return row;
}

function tableHead(columns, runs) {
  const able = runs.filter((run) => run.status !== 'broken');
  const all = able.length > 0 && able.every((run) => state.shown.has(run.index));
  const box = make('input', {
    type: 'checkbox',
    checked: all,
    indeterminate: !all && able.some((run) => state.shown.has(run.index)),
    'aria-label': 'Show all rows in the plots',
    onchange: () => {
      const shown = new Set(state.shown);
      able.forEach((run) => shown[box.checked ? 'add' : 'delete'](run.index));
      change({ shown });
    },
  });
  const row = make('tr', {}, make('th', { class: 'tick', title: 'shown in the plots' }, box));
  for (const column of columns) {
    const sort = state.sort.replace(/^-/, '') === column.key ? (state.sort.startsWith('-') ? 'descending' : 'ascending') : 'none';
    const arrow = { none: '', ascending: '▲', descending: '▼' }[sort];
    row.append(make('th', { scope: 'col', class: column.number ? 'number' : '', 'aria-sort': sort },
      make('button', { type: 'button', 'data-sort': column.key, title: `Sort by ${column.hint ?? column.head[1]}`, onclick: () => sortBy(column, sort) },
        column.head[0] ? make('span', { class: 'above' }, column.head[0]) : null,
        make('span', {}, column.head[1], make('span', { class: 'arrow', 'aria-hidden': 'true' }, arrow)))));
  }
  return make('thead', {}, row);
}

// The first click puts the best first; the second one turns it round.
function sortBy(column, sort) {
  const bestIsHigh = column.number && !column.lower;
  const descending = sort === 'none' ? bestIsHigh : sort === 'ascending';
  change({ sort: `${descending ? '-' : ''}${column.key}` });
}

function filterBar() {
  const search = make('input', {
    type: 'search',
    id: 'filter',
    placeholder: 'words of name, settings, status',
    value: state.q,
    oninput: () => change({ q: search.value }),
  });
  search.value = state.q;
  const bar = make('div', { class: 'controls', role: 'search' }, labelled('Filter', search));
  const keys = [['status', 'status'], ['sweep', 'sweep'], ...DATA.settings.map(({ key, short }) => [key, short])];
  for (const [key, title] of keys) {
    const values = [...new Set(RUNS.map((run) => filterValue(run, key)))].sort(compare);
    if (values.length < 2 || values.length > MOST_VALUES_OF_A_FILTER) continue;
    const options = [['', 'any'], ...values.map((value) => [`=${value}`, value || 'none'])];
    const chosen = key in state.filters ? `=${state.filters[key]}` : '';
    bar.append(labelled(title, select(options, chosen, (value) => {
      const filters = { ...state.filters };
      if (value) filters[key] = value.slice(1);
      else delete filters[key];
      change({ filters });
    })));
  }
  if (state.q || Object.keys(state.filters).length) {
    bar.append(make('button', { type: 'button', onclick: () => change({ q: '', filters: {} }) }, 'Clear filters'));
  }
  return bar;
}

function tickBar(runs) {
  const able = runs.filter((run) => run.status !== 'broken');
  const set = (chosen) => () => change({ shown: new Set(chosen.map((run) => run.index)) });
  const best = able.filter((run) => run.status === 'finished' && isNumber(run.metrics[SCORE]))
    .sort((first, second) => second.metrics[SCORE] - first.metrics[SCORE]).slice(0, 10);
  const hasTest = DATA.metrics.some((metric) => metric.split === 'test' && metric.main);
  return make('div', { class: 'controls' },
    make('span', { class: 'quiet' }, `Plots show ${plural(shownRuns().length, 'run')}:`),
    make('button', { type: 'button', onclick: set(able) }, 'Tick all rows'),
    make('button', { type: 'button', onclick: set([]) }, 'Tick none'),
    best.length > 2 ? make('button', { type: 'button', onclick: set(best) }, `Tick the best ${best.length}`) : null,
    hasTest ? checkbox('Test metrics (choose runs by validation alone)', state.test === '1', (on) => change({ test: on ? '1' : '' })) : null);
}
