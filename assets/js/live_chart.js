// Live charts: static cards, Plotly.react with uirevision = run, so zoom, pan and hidden series outlive new data.
const cards = [...element.querySelectorAll('.chart-card')];
const bar = element.querySelector('.charts-bar');
const KEY = 'craterlab-charts';
const options = { x: 'episode', smooth: 0.6, log: false, ...JSON.parse(localStorage.getItem(KEY) || '{}') };
const xTitle = { episode: 'episode', minutes: 'training time (min)', images: 'images drawn' };
const xSelect = bar.querySelector('select');
const smooth = bar.querySelector('input[type=range]');
const shown = bar.querySelector('output');
const log = bar.querySelector('input[type=checkbox]');
const inView = new Set();

const smoothed = (values, factor) => {
  if (!factor) return values;
  let mean = 0, weight = 0;
  return values.map((v) => {
    if (v === null || v === undefined) return null;
    mean = factor * mean + (1 - factor) * v;
    weight = factor * weight + (1 - factor);
    return mean / weight;
  });
};

const tracesOf = (chart, axes) => chart.traces.flatMap((t) => {
  const x = axes[t.axis][options.x];
  const colour = cssColour('--chart-' + t.slot);
  const line = { color: colour, width: 2, dash: t.dash };
  const common = { x, name: t.name, hovertemplate: '%{y:.4g}' };
  if (t.kind === 'band') {
    const edge = { x, mode: 'lines', line: { width: 0 }, hoverinfo: 'skip', legendgroup: t.name };
    return [{ ...edge, y: t.low, showlegend: false }, { ...edge, y: t.high, name: t.name, fill: 'tonexty', fillcolor: translucent(colour, 0.16) }];
  }
  if (t.kind === 'points') return [{ ...common, y: t.y, mode: 'markers', marker: { color: colour, size: 8, symbol: 'diamond' } }];
  if (t.kind === 'trail') return [{ ...common, y: t.y, mode: 'lines+markers', line, marker: { color: colour, size: 8, symbol: t.dash === 'solid' ? 'diamond' : 'circle' }, connectgaps: true }];
  if (t.kind === 'level') return [{ ...common, y: t.y, mode: 'lines', line: { ...line, width: 1.4 } }];
  const soft = smoothed(t.y, options.smooth);
  const main = { ...common, y: soft, customdata: t.y, mode: x.length < 3 ? 'lines+markers' : 'lines', line, marker: { size: 6, color: colour }, connectgaps: true,
    hovertemplate: options.smooth ? '%{y:.4g} (raw %{customdata:.4g})' : '%{y:.4g}' };
  if (!options.smooth || chart.traces.length > 5) return [main];
  return [{ x, y: t.y, mode: 'lines', line: { color: translucent(colour, 0.28), width: 1 }, hoverinfo: 'skip', showlegend: false, legendgroup: t.name }, { ...main, legendgroup: t.name }];
});

const marksOf = (value, wide) => {
  const place = (m) => (options.x === 'episode' ? m.episode : options.x === 'minutes' ? m.minutes : m.images);
  const colour = cssColour('--rust');
  const shapes = value.marks.map((m) => ({ type: 'line', x0: place(m), x1: place(m), yref: 'paper', y0: 0, y1: 1, line: { color: colour, width: 1, dash: 'dot' } }));
  const annotations = !wide ? [] : value.marks.slice(-12).map((m) => ({ x: place(m), yref: 'paper', y: 0.98, text: m.label, textangle: -90, showarrow: false, xanchor: 'right', yanchor: 'top', font: { size: 10, color: colour } }));
  return { shapes, annotations };
};

// A logarithmic axis drops what is not above zero: where a card holds such a value its axis stays linear.
const fitsLog = (traces) => traces.every((t) => (t.y || []).every((v) => !Number.isFinite(v) || v > 0));

const drawCard = async (card) => {
  const value = props.value;
  const chart = value && value.charts && value.charts[card.dataset.chart];
  const div = card.querySelector('.chart-div');
  const scale = card.querySelector('.chart-scale');
  scale.textContent = '';
  if (!chart) return;
  const waiting = chart.traces.length === 0;
  card.dataset.waiting = !waiting ? '' : chart.points ? 'Nothing of this in this run so far' : 'Waiting for the first episode';
  if (waiting) {
    if (div._fullLayout) (await window.craterPlotly).purge(div);
    div.dataset.points = String(chart.points);
    return;
  }
  let P;
  try {
    P = await loadPlotly(props.plotly);
  } catch (error) {
    card.dataset.waiting = error.message; // drawn with the next news, once the server answers again
    return;
  }
  const wide = card.classList.contains('wide');
  const marks = chart.across ? {} : marksOf(value, wide);
  const traces = tracesOf(chart, value.axes), logarithmic = options.log && fitsLog(traces);
  scale.textContent = options.log && !logarithmic ? ' Linear axis: some values are not above zero.' : '';
  const layout = { ...baseLayout(), ...marks, uirevision: [value.run, options.x, logarithmic].join('|'), hovermode: 'x unified',
    xaxis: axisStyle({ title: { text: chart.across || xTitle[options.x], standoff: 6 } }), yaxis: axisStyle({ type: logarithmic ? 'log' : 'linear', title: { text: chart.unit, standoff: 4 } }) };
  await P.react(div, traces, layout, { displaylogo: false, responsive: true, modeBarButtonsToRemove: ['lasso2d', 'select2d', 'autoScale2d'] });
  div.dataset.points = String(chart.points);
};
const draw = () => { cards.forEach((card) => { if (inView.has(card)) drawCard(card); }); };

const watcher = new IntersectionObserver((entries) => entries.forEach((e) => {
  if (e.isIntersecting) { inView.add(e.target); drawCard(e.target); } else inView.delete(e.target);
}), { rootMargin: '200px' });
cards.forEach((card) => watcher.observe(card));
const resizer = new ResizeObserver((entries) => { if (window.craterPlotly) window.craterPlotly.then((P) => entries.forEach((e) => { if (e.target._fullLayout && e.contentRect.width > 0) P.Plots.resize(e.target); })); });
cards.forEach((card) => resizer.observe(card.querySelector('.chart-div')));

const remember = () => { localStorage.setItem(KEY, JSON.stringify(options)); shown.textContent = options.smooth.toFixed(2); draw(); };
xSelect.value = options.x; smooth.value = options.smooth; log.checked = options.log; shown.textContent = Number(options.smooth).toFixed(2);
xSelect.addEventListener('change', () => { options.x = xSelect.value; remember(); });
smooth.addEventListener('input', () => { options.smooth = Number(smooth.value); remember(); });
log.addEventListener('change', () => { options.log = log.checked; remember(); });
onThemeChange(draw);
watch('value', draw);
draw();
