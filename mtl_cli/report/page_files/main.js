// The page as a whole: header, navigation, and the view that the address names.

const DRAW = {
  table: ['Table', tableView],
  curves: ['Curves', curvesView],
  scores: ['Scores', scoresView],
  'trade-offs': ['Trade-offs', tradeOffsView],
  hyperparameters: ['Hyperparameters', hyperparametersView],
  runs: ['Runs', runsView],
};

function header() {
  const counts = Object.keys(STATUS).map((status) => [status, RUNS.filter((run) => run.status === status).length]).filter(([, count]) => count);
  const dark = theme() === 'dark';
  return [
    make('h1', {}, `Comparison of ${plural(RUNS.length, 'run')}`),
    make('p', { class: 'statuses' }, counts.map(([status, count]) => make('span', { class: `status ${status}` }, `${STATUS[status][0]} ${count} ${status}`)),
      make('span', { class: 'quiet' }, ` ${plural(DATA.tasks.length, 'task')}: ${DATA.tasks.join(', ') || 'none known'}; written ${DATA.written.replace('T', ' ').replace('+00:00', ' UTC')} by mtl ${DATA.version}`)),
    make('button', { type: 'button', id: 'theme', 'aria-pressed': String(dark), onclick: toggleTheme }, dark ? '☀ Light' : '☾ Dark'),
  ];
}

function navigation() {
  const links = VIEWS.map((view) => make('a', { href: address({ view }), 'aria-current': view === state.view ? 'page' : null, id: `to-${view}` }, DRAW[view][0]));
  return [make('div', { class: 'links' }, links), make('span', { class: 'quiet' }, `${shownRuns().length} of ${plural(RUNS.length, 'run')} in the plots`)];
}

// After a view is drawn anew, the keyboard stays where it was: at the control of the same place.
function keepingFocus(element, redraw) {
  const controls = () => [...element.querySelectorAll('button, input, select, summary, a[href]')];
  const active = document.activeElement;
  const place = controls().indexOf(active);
  const caret = active instanceof HTMLInputElement && active.type === 'search' ? active.selectionStart : null;
  redraw();
  const next = place < 0 ? null : controls()[place];
  if (!next || next.tagName !== active.tagName) return;
  next.focus({ preventScroll: true });
  if (caret !== null && next.type === 'search') next.setSelectionRange(caret, caret);
}

function draw() {
  const [top, nav, views] = ['top', 'nav', 'views'].map((id) => document.getElementById(id));
  keepingFocus(top, () => top.replaceChildren(...header()));
  keepingFocus(nav, () => nav.replaceChildren(...navigation()));
  const [links, here] = [nav.querySelector('.links'), nav.querySelector('[aria-current]')];
  links.scrollLeft = here.offsetLeft - links.offsetLeft - (links.clientWidth - here.offsetWidth) / 2;
  keepingFocus(views, () => {
    const open = [...views.querySelectorAll('details.chooser')].some((box) => box.open);
    const scrolled = views.dataset.view === state.view ? views.querySelector('.scroll')?.scrollLeft ?? 0 : 0;
    clear(views);
    views.dataset.view = state.view;
    views.append(...DRAW[state.view][1]().flat(Infinity).filter(Boolean));
    if (open) views.querySelectorAll('details.chooser').forEach((box) => { box.open = true; });
    const scroll = views.querySelector('.scroll');
    if (scroll) scroll.scrollLeft = scrolled;
  });
  document.title = `${DRAW[state.view][0]}: ${plural(RUNS.length, 'run')} - mtl compare`;
}

listeners.push((keys) => {
  draw();
  if (keys.includes('view') || keys.includes('run')) scrollTo(0, 0);
});
addEventListener('hashchange', () => {
  const before = [state.view, state.run].join();
  readAddress();
  draw();
  if ([state.view, state.run].join() !== before) scrollTo(0, 0);
});
prefersDark.addEventListener('change', draw);
let width = innerWidth;
addEventListener('resize', () => {
  if (innerWidth === width) return;
  width = innerWidth;
  if (state.view === 'hyperparameters' || state.view === 'scores') draw();
});
readAddress();
draw();
