// Plots: one look for all, drawn when they come into sight.

function colours() {
  const style = getComputedStyle(document.documentElement);
  const of = (name) => style.getPropertyValue(name).trim();
  return { text: of('--text'), quiet: of('--quiet'), line: of('--line'), ground: of('--ground'), panel: of('--panel') };
}

function layoutOf({ x, y, height = 300, margin = {} }) {
  const look = colours();
  const axis = (given) => ({
    gridcolor: look.line,
    zerolinecolor: look.line,
    linecolor: look.quiet,
    automargin: true,
    ...given,
    title: { text: plotText(given.title ?? ''), standoff: 8, font: { size: 12 } },
  });
  return {
    font: { family: 'system-ui, sans-serif', size: 12, color: look.text },
    paper_bgcolor: 'rgba(0,0,0,0)',
    plot_bgcolor: 'rgba(0,0,0,0)',
    height,
    margin: { l: 56, r: 16, t: 30, b: 48, ...margin },
    xaxis: axis({ type: 'linear', ...x }),
    yaxis: axis({ type: 'linear', ...y }),
    showlegend: false,
    hovermode: 'closest',
    modebar: { bgcolor: look.panel, color: look.quiet, activecolor: look.text },
    hoverlabel: { namelength: -1, bgcolor: look.panel, bordercolor: look.quiet, font: { color: look.text } },
  };
}

// Buttons that send a plot somewhere are not among these.
const plotConfig = (title) => ({
  responsive: true,
  displaylogo: false,
  showSendToCloud: false,
  modeBarButtons: [['toImage', 'resetScale2d']],
  toImageButtonOptions: { filename: title.replace(/[^\w.-]+/g, '_').slice(0, 80) },
});

const waiting = new Map();
const watcher = new IntersectionObserver((entries) => {
  for (const entry of entries) {
    if (!entry.isIntersecting) continue;
    const draw = waiting.get(entry.target);
    watcher.unobserve(entry.target);
    waiting.delete(entry.target);
    draw?.();
  }
}, { rootMargin: '300px' });

// Returns a figure whose plot is drawn once it is near to what can be seen. `plot()` gives traces and layout.
function figure(title, height, plot) {
  const place = make('div', { class: 'plot', role: 'img', 'aria-label': title, style: { 'min-height': `${height}px` } });
  waiting.set(place, () => {
    const { traces, layout } = plot();
    Plotly.newPlot(place, traces, layout, plotConfig(title));
  });
  watcher.observe(place);
  return make('figure', {}, make('figcaption', {}, title), place);
}

// Takes the plots of an element down before it is emptied.
function clear(element) {
  for (const place of element.querySelectorAll('.plot')) {
    watcher.unobserve(place);
    waiting.delete(place);
    if (place.classList.contains('js-plotly-plot')) Plotly.purge(place);
  }
  element.replaceChildren();
}

// A key of colours for all plots of a view; its buttons untick runs.
function legend(entries) {
  const list = make('ul', { class: 'legend', 'aria-label': 'Runs in the plots' });
  for (const { label, group, dash, mark, runs } of entries) {
    list.append(make('li', {}, make('button', {
      type: 'button',
      title: `Take ${label} out of the plots`,
      onclick: () => change({ shown: new Set([...state.shown].filter((index) => !runs.includes(index))) }),
    }, mark ? markSign(group) : swatch(group, dash), make('span', {}, label))));
  }
  return list;
}

function swatch(group, dash) {
  const svg = document.createElementNS('http://www.w3.org/2000/svg', 'svg');
  const line = document.createElementNS('http://www.w3.org/2000/svg', 'line');
  svg.setAttribute('class', 'swatch');
  svg.setAttribute('viewBox', '0 0 26 10');
  svg.setAttribute('aria-hidden', 'true');
  const dashes = { dash: '7 4', dot: '2 3', dashdot: '7 3 2 3' };
  const attributes = { x1: 0, x2: 26, y1: 5, y2: 5, stroke: colourOf(group), 'stroke-width': 3.5 };
  Object.entries(attributes).forEach(([name, value]) => line.setAttribute(name, value));
  if (dashes[dash]) line.setAttribute('stroke-dasharray', dashes[dash]);
  svg.append(line);
  return svg;
}

// The marks of plots of points, so that colour is not the only thing that tells groups apart.
const MARK_PATHS = {
  circle: 'M10 5a5 5 0 1 1-10 0a5 5 0 1 1 10 0',
  square: 'M.5.5h9v9h-9z',
  diamond: 'M5-1l6 6l-6 6l-6-6z',
  'triangle-up': 'M5 0l5.5 9.5h-11z',
  cross: 'M3.3 0h3.4v3.3h3.3v3.4h-3.3v3.3h-3.4v-3.3h-3.3v-3.4h3.3z',
  x: 'M2 0l3 3l3-3l2 2l-3 3l3 3l-2 2l-3-3l-3 3l-2-2l3-3l-3-3z',
  star: 'M5-.5l1.5 3.6l4 .3l-3 2.6l1 3.9l-3.5-2.1l-3.5 2.1l1-3.9l-3-2.6l4-.3z',
  hexagon: 'M5-.5l4.8 2.75v5.5l-4.8 2.75l-4.8-2.75v-5.5z',
};

function markSign(group) {
  const svg = document.createElementNS('http://www.w3.org/2000/svg', 'svg');
  const path = document.createElementNS('http://www.w3.org/2000/svg', 'path');
  const box = { class: 'mark', viewBox: '-2 -2 14 14', 'aria-hidden': 'true' };
  Object.entries(box).forEach(([name, value]) => svg.setAttribute(name, value));
  path.setAttribute('d', MARK_PATHS[markOf(group)]);
  path.setAttribute('fill', colourOf(group));
  svg.append(path);
  return svg;
}

function faded(colour, part) {
  const [red, green, blue] = [1, 3, 5].map((at) => parseInt(colour.slice(at, at + 2), 16));
  return `rgba(${red},${green},${blue},${part})`;
}

// Numbers of more than two orders of magnitude are told apart on a logarithmic axis alone.
function needsLogarithm(values) {
  const known = values.filter(isNumber);
  return known.length > 1 && Math.min(...known) > 0 && Math.max(...known) / Math.min(...known) > 30;
}

function empty(text) {
  return make('p', { class: 'empty' }, text);
}

function noneFinished() {
  const any = RUNS.some((run) => run.status === 'finished');
  return empty(any ? 'No finished run is shown: tick some in the table.' : 'No run is finished yet; this view is of finished runs.');
}

// How many runs a view shows, with the way to change that, and what else there is to say.
function noteOnShown(runs, ...more) {
  const link = make('a', { href: address({ view: 'table' }) }, 'ticked in the table');
  return make('p', { class: 'note' }, `${runs.length} of ${plural(RUNS.length, 'run')} shown, as `, link, '. ', more);
}
