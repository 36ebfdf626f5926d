// Means over seeds with intervals, one plot a task. Runs are averaged only where nothing but their seeds differ.

function scoresView() {
  const metrics = DATA.metrics.filter((metric) => (metric.main || metric.name === SCORE) && (metric.split === 'validation' || state.test === '1'));
  const rows = scoreRows();
  const sections = [scoreControls()];
  if (!RUNS.some((run) => run.status === 'finished')) {
    return [...sections, empty('No run is finished: there are no scores of best weights to be averaged. The table has the last evaluations.'), ...refusalNotes()];
  }
  if (!rows.length) return [...sections, noneFinished(), ...refusalNotes()];
  sections.push(make('p', { class: 'note' },
    `Means over seeds with ${Math.round(DATA.level * 100)} % intervals for the mean (Student's t); points are single seeds. `,
    'One seed has no interval. A group is averaged over all of its finished seeds, whichever of them are ticked. '));
  sections.push(...refusalNotes(), ...rowNotes(rows));
  const figures = metrics.map((metric) => scoreFigure(metric, rows)).filter(Boolean);
  sections.push(figures.length ? make('div', { class: 'plots' }, figures) : empty('None of the shown runs has a main metric.'));
  sections.push(scoreTable(metrics, rows));
  return sections;
}

function scoreControls() {
  const hasTest = DATA.metrics.some((metric) => metric.split === 'test' && metric.main);
  const keys = DATA.settings.filter(({ key }) => key !== 'seed');
  return make('div', { class: 'controls' },
    labelled('A bar for each', select([['', 'group that differs in nothing but the seed'], ...keys.map(({ key }) => [key, `value of ${key}`])],
      state.by, (by) => change({ by }))),
    labelled('Axis', select([['zero', 'from 0, bars'], ['fitted', 'fitted, marks']], state.bars, (bars) => change({ bars }))),
    hasTest ? checkbox('Test metrics', state.test === '1', (on) => change({ test: on ? '1' : '' })) : null);
}

// What gets a bar: a group, or the groups that share a value of a setting; those are averaged only if they are one.
function scoreRows() {
  const groups = GROUPS.filter((group) => group.counted.length && group.runs.some((index) => state.shown.has(index) && passes(RUNS[index])));
  const rows = [];
  if (!state.by) {
    groups.forEach((group) => rows.push({ label: group.label, groups: [group] }));
  } else {
    for (const group of groups) {
      const label = `${DATA.settings.find(({ key }) => key === state.by)?.short ?? state.by}=${settingText(group.settings[state.by])}`;
      const row = rows.find((other) => other.label === label);
      if (row) row.groups.push(group);
      else rows.push({ label, groups: [group] });
    }
  }
  for (const row of rows) {
    row.runs = row.groups.flatMap((group) => group.counted.map((index) => RUNS[index]));
    row.colour = row.groups.length === 1 ? row.groups[0].index : undefined;
    row.differing = differingKeys(row.groups);
  }
  const height = (row) => Math.max(...row.groups.map((group) => group.means[SCORE]?.[0] ?? -Infinity));
  return rows.sort((first, second) => height(second) - height(first));
}

function differingKeys(groups) {
  const keys = [...new Set(groups.flatMap((group) => Object.keys(group.settings)))];
  return keys.filter((key) => new Set(groups.map((group) => JSON.stringify(group.settings[key]))).size > 1);
}

const meanOf = (row, name) => (row.groups.length === 1 ? row.groups[0].means[name] : undefined);

function refusalNotes() {
  return DATA.refusals.map((refusal) => {
    const head = make('tr', {}, make('th', { scope: 'col' }, 'setting'), refusal.labels.map((label) => make('th', { scope: 'col' }, label)));
    const rows = Object.entries(refusal.differences).map(([key, values]) => make('tr', {},
      make('th', { scope: 'row' }, key), values.map((value) => make('td', {}, value === null ? 'null or not set' : settingText(value)))));
    return make('details', { class: 'warning', open: true },
      make('summary', {}, make('strong', {}, 'Not averaged: '), `runs called “${refusal.typed}” differ in ${Object.keys(refusal.differences).join(', ')}, not only in the seed.`),
      make('div', { class: 'scroll' }, make('table', { class: 'plain' }, make('thead', {}, head), make('tbody', {}, rows))));
  });
}

function rowNotes(rows) {
  const refused = rows.filter((row) => row.groups.length > 1);
  const notes = refused.map((row) => make('li', {}, make('strong', {}, `${row.label}: not averaged. `),
    `Its ${plural(row.runs.length, 'run')} differ in ${row.differing.join(', ')}; single runs are shown.`));
  for (const row of rows) {
    for (const group of row.groups) for (const note of group.notes) notes.push(make('li', {}, make('strong', {}, `${group.label}: `), note));
  }
  return notes.length ? [make('ul', { class: refused.length ? 'warning' : 'note', id: 'score-notes' }, notes)] : [];
}

function scoreFigure(metric, rows) {
  const present = rows.filter((row) => row.runs.some((run) => isNumber(run.metrics[metric.name])));
  if (!present.length) return null;
  const title = `${metricTitle(metric.name)}${metric.split === 'validation' ? ' on validation' : ''}${metric.lower ? ' (lower is better)' : ''}`;
  const height = 82 + 34 * present.length;
  return figure(title, height, () => ({ traces: scoreTraces(metric.name, present), layout: scoreLayout(metric, present, height) }));
}

function scoreLayout(metric, rows, height) {
  const most = innerWidth < 600 ? 20 : 36;
  const ticks = rows.map((_, place) => place);
  return layoutOf({
    x: { title: metric.metric, rangemode: state.bars === 'zero' ? 'tozero' : 'normal' },
    y: {
      tickmode: 'array',
      tickvals: ticks,
      ticktext: rows.map((row) => plotText(shortened(row.label, most))),
      range: [rows.length - 0.5, -0.5],
      showgrid: false,
      zeroline: false,
    },
    height,
    margin: { l: 20 },
  });
}

function scoreTraces(name, rows) {
  const traces = [];
  rows.forEach((row, place) => {
    const [mean, low, high, n] = meanOf(row, name) ?? [];
    const colour = colourOf(row.colour);
    const label = plotText(row.label);
    const interval = isNumber(low) ? `, ${Math.round(DATA.level * 100)} % interval ${metricText(low)} to ${metricText(high)}` : ', no interval';
    const hovertemplate = `mean ${metricText(mean)}${interval}, n = ${n}<extra>%{fullData.name}</extra>`;
    if (isNumber(mean) && state.bars === 'zero') {
      traces.push({ type: 'bar', orientation: 'h', x: [mean], y: [place], width: 0.62, marker: { color: faded(colour, 0.55) }, name: label, hovertemplate });
    }
    if (isNumber(mean)) {
      traces.push({ x: [mean], y: [place], mode: 'markers', marker: { symbol: 'line-ns', size: 20, line: { color: colour, width: 3 } }, name: label, hovertemplate });
    }
    if (isNumber(low)) {
      traces.push({
        x: [low, high],
        y: [place, place],
        mode: 'lines+markers',
        line: { color: colours().text, width: 1.6 },
        marker: { symbol: 'line-ns', size: 9, line: { color: colours().text, width: 1.6 } },
        hoverinfo: 'skip',
      });
    }
    traces.push(seedPoints(name, row, place));
  });
  return traces;
}

function seedPoints(name, row, place) {
  const runs = row.runs.filter((run) => isNumber(run.metrics[name]));
  return {
    x: runs.map((run) => run.metrics[name]),
    y: runs.map((_, number) => place + (runs.length > 1 ? 0.36 * (number / (runs.length - 1) - 0.5) : 0)),
    mode: 'markers',
    marker: { color: runs.map((run) => colourOf(run.group_index)), size: 7, line: { color: colours().ground, width: 1.2 } },
    text: runs.map((run) => plotText(run.name)),
    hovertemplate: '%{x:.4f}<extra>%{text}</extra>',
  };
}

function scoreTable(metrics, rows) {
  const head = make('tr', {}, make('th', { scope: 'col' }, state.by ? 'value' : 'group'), make('th', { scope: 'col', class: 'number' }, 'runs'),
    metrics.map((metric) => make('th', { scope: 'col', class: 'number' },
      metric.task ? make('span', { class: 'above' }, metric.task + (metric.split === 'test' ? ' (test)' : '')) : null, metric.metric)));
  const body = rows.map((row) => make('tr', {}, make('th', { scope: 'row' }, make('div', { class: 'name' }, row.colour === undefined ? null : swatch(row.colour), row.label)),
    make('td', { class: 'number' }, String(row.runs.length)), metrics.map((metric) => scoreCell(row, metric.name))));
  const caption = `Mean ± half of the ${Math.round(DATA.level * 100)} % interval for the mean (n seeds). In tables of mtl compare, ± is the standard deviation.`;
  return make('div', { class: 'scroll' }, make('table', { class: 'grid', id: 'scores-table' },
    make('caption', {}, caption), make('thead', {}, head), make('tbody', {}, body)));
}

function scoreCell(row, name) {
  if (row.groups.length > 1) return make('td', { class: 'number quiet', title: `differ in ${row.differing.join(', ')}` }, 'not averaged');
  const [mean, , high, n] = meanOf(row, name) ?? [];
  const half = isNumber(high) ? ` ± ${(high - mean).toFixed(4)}` : '';
  return make('td', { class: 'number' }, isNumber(mean) ? `${metricText(mean)}${half} (${n})` : '–');
}
