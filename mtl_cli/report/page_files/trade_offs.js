// Two tasks against each other with their Pareto front, and scores against what they cost.

// Points that no other one beats: none is as good on both axes and better on one.
function paretoFront(points, xLower, yLower) {
  const better = (one, other, lower) => (lower ? one < other : one > other);
  const beats = (one, other) => !better(other.x, one.x, xLower) && !better(other.y, one.y, yLower)
    && (better(one.x, other.x, xLower) || better(one.y, other.y, yLower));
  return points.filter((point) => !points.some((other) => beats(other, point)))
    .sort((one, other) => one.x - other.x || one.y - other.y);
}

// The two tasks that most runs have learnt both of: runs with other tasks have nothing to trade.
function mostSharedPair(main, runs) {
  const has = (run, metric) => Number.isFinite(run.metrics[metric.name]);
  let pair = [main[0], main[1]];
  let most = 0;
  main.forEach((one, place) => main.slice(place + 1).forEach((other) => {
    const count = runs.filter((run) => has(run, one) && has(run, other)).length;
    if (count > most) [pair, most] = [[one, other], count];
  }));
  return pair;
}

function tradeOffsView() {
  const runs = shownRuns().filter((run) => run.status === 'finished');
  const metrics = DATA.metrics.filter((metric) => metric.metric && (metric.split === 'validation' || state.test === '1'));
  const main = metrics.filter((metric) => metric.main && metric.split === 'validation');
  const names = metrics.map((metric) => metric.name);
  const chosen = (name, fallback) => (names.includes(name) ? name : fallback ?? names[0] ?? '');
  const [across, up] = mostSharedPair(main, runs);
  const first = chosen(state.first, across?.name);
  const second = chosen(state.second, up?.name ?? SCORE);
  const cost = chosen(state.cost, names.includes(SCORE) ? SCORE : main[0]?.name);
  const options = metrics.map((metric) => [metric.name, metricTitle(metric.name)]);
  const controls = make('div', { class: 'controls' },
    labelled('Across', select(options, first, (name) => change({ first: name }))),
    labelled('Up', select(options, second, (name) => change({ second: name }))),
    labelled('Points', select([['runs', 'single runs'], ['means', 'means over seeds']], state.points, (points) => change({ points }))));
  if (!names.length) return [empty('No run has been evaluated yet.')];
  if (!runs.length) return [controls, noneFinished()];
  const unfinished = shownRuns().length - runs.length;
  const note = noteOnShown(runs, unfinished ? `${plural(unfinished, 'ticked run')} not finished and left out. ` : null,
    'Points with a ring are on the front: no other is as good on both axes and better on one. ',
    state.points === 'means' ? 'Only runs that differ in nothing but the seed are averaged. ' : null);
  const paired = pointsFor(runs, (run) => run.metrics[first], (group) => group.means[first]?.[0], second);
  return [controls, note, groupKey(runs, true),
    make('section', {}, make('h2', {}, 'Two tasks'),
      paired.length ? [make('div', { class: 'medium' }, pairFigure(paired, first, second)), frontTable(paired, first, second)] : empty('No shown run has both metrics.')),
    make('section', {}, make('h2', {}, 'Score against cost'),
      make('div', { class: 'controls' }, labelled('Score', select(options, cost, (name) => change({ cost: name })))),
      make('div', { class: 'plots' }, COSTS.map((axis) => costFigure(runs, axis, cost))))];
}

function groupKey(runs, mark) {
  return legend(groupsOf(runs).map((group) => ({ label: group.label, group: group.index, mark, runs: group.runs.map((run) => run.index) })));
}

function pointsFor(runs, xOfRun, xOfGroup, yName) {
  const points = state.points === 'means'
    ? groupsOf(runs).map((group) => ({ x: xOfGroup(group), y: group.means[yName]?.[0], group: group.index, label: `${group.label}, mean` }))
    : runs.map((run) => ({ x: xOfRun(run), y: run.metrics[yName], group: run.group_index, label: run.name, run }));
  return points.filter((point) => isNumber(point.x) && isNumber(point.y));
}

function pairFigure(points, first, second) {
  const title = `${metricTitle(second)} against ${metricTitle(first)}`;
  const axis = (name) => ({ title: `${metricTitle(name)}${lowerIsBetter(name) ? ' (lower is better)' : ''}` });
  return figure(title, 460, () => ({
    traces: pointTraces(points, lowerIsBetter(first), lowerIsBetter(second)),
    layout: layoutOf({ x: axis(first), y: axis(second), height: 460 }),
  }));
}

function costFigure(runs, axis, name) {
  const meanCost = (group) => {
    const costs = group.counted.map((index) => axis.of(RUNS[index])).filter(isNumber);
    return costs.length ? costs.reduce((sum, value) => sum + value, 0) / costs.length : undefined;
  };
  const points = pointsFor(runs, axis.of, (group) => meanCost(GROUPS[group.index]), name);
  const title = `${metricTitle(name)} against ${axis.title}`;
  if (!points.length) return make('div', {}, empty(`${title}: no shown run says both.`));
  const logarithmic = needsLogarithm(points.map((point) => point.x));
  return figure(title, 320, () => ({
    traces: pointTraces(points, true, lowerIsBetter(name)),
    layout: layoutOf({
      x: { title: axis.axis + (logarithmic ? ' (logarithmic)' : ''), type: logarithmic ? 'log' : 'linear', nticks: 6 },
      y: { title: METRICS.get(name)?.metric ?? name },
      height: 320,
    }),
  }));
}

function pointTraces(points, xLower, yLower) {
  const front = paretoFront(points, xLower, yLower);
  const line = {
    x: front.map((point) => point.x),
    y: front.map((point) => point.y),
    mode: 'lines',
    line: { color: colours().quiet, width: 1.4, dash: 'dot', shape: xLower ? 'hv' : 'vh' },
    hoverinfo: 'skip',
  };
  const isFront = new Set(front);
  return [line, {
    x: points.map((point) => point.x),
    y: points.map((point) => point.y),
    mode: 'markers',
    marker: {
      color: points.map((point) => colourOf(point.group)),
      symbol: points.map((point) => markOf(point.group)),
      size: points.map((point) => (isFront.has(point) ? 13 : 9)),
      opacity: 0.9,
      line: { color: points.map((point) => (isFront.has(point) ? colours().text : colours().ground)), width: points.map((point) => (isFront.has(point) ? 2.2 : 0.8)) },
    },
    text: points.map((point) => plotText(point.label + (isFront.has(point) ? ' (on the front)' : ''))),
    hovertemplate: '%{y:.4f} at %{x:,.5~g}<extra>%{text}</extra>',
  }];
}

function frontTable(points, first, second) {
  const front = paretoFront(points, lowerIsBetter(first), lowerIsBetter(second));
  const rows = front.map((point) => make('tr', {},
    make('th', { scope: 'row' }, make('div', { class: 'name' }, markSign(point.group),
      point.run ? make('a', { href: address({ view: 'runs', run: point.run.name }) }, breakable(point.label)) : point.label)),
    make('td', { class: 'number' }, metricText(point.x)), make('td', { class: 'number' }, metricText(point.y))));
  return make('div', { class: 'scroll' }, make('table', { class: 'grid', id: 'front' },
    make('caption', {}, `The front: ${front.length} of ${points.length} points`),
    make('thead', {}, make('tr', {}, make('th', { scope: 'col' }, state.points === 'means' ? 'group' : 'run'),
      [first, second].map((name) => make('th', { scope: 'col', class: 'number' }, metricTitle(name))))),
    make('tbody', {}, rows)));
}
