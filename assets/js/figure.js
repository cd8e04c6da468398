// A figure made on the server (a Plotly dictionary), drawn with the page's colours; a card per figure, kept when data change.
const div = element.querySelector('.figure-div');
const said = element.querySelector('.figure-note');
// Okabe and Ito's colours, as figures name them, become the page's own of the present (light or dark) theme.
const SLOTS = { '#0072B2': 1, '#D55E00': 2, '#009E73': 3, '#CC79A7': 4, '#E69F00': 5, '#56B4E9': 6, '#F0E442': 7, '#000000': 7 };
const themed = (part) => { if (part && SLOTS[part.color]) part.color = cssColour('--chart-' + SLOTS[part.color]); };
const recolour = (trace) => {
  themed(trace.line);
  themed(trace.marker);
  if (trace.slot) {
    const colour = cssColour('--chart-' + trace.slot);
    trace.line = { ...(trace.line || {}), color: colour };
    trace.marker = { ...(trace.marker || {}), color: (trace.marker && trace.marker.color) || colour };
    if (trace.fill) trace.fillcolor = translucent(colour, 0.16);
  }
  return trace;
};
const draw = async () => {
  const value = props.value;
  said.textContent = (value && value.note) || '';
  said.hidden = !said.textContent;
  if (!value || !value.data) { if (window.craterPlotly && div._fullLayout) (await window.craterPlotly).purge(div); div.style.height = '0'; return; }
  let P;
  try {
    P = await loadPlotly(props.plotly);
  } catch (error) {
    div.textContent = error.message;
    return;
  }
  const given = value.layout || {};
  div.style.height = (given.height || 340) + 'px';
  const layout = { ...baseLayout(), hovermode: 'closest', ...given, xaxis: axisStyle(given.xaxis || {}), yaxis: axisStyle(given.yaxis || {}), uirevision: value.key || 'figure' };
  if (!given.title) layout.margin = { ...baseLayout().margin, b: 64, ...(given.title === undefined && given.margin ? { l: given.margin.l } : {}), t: 14 };
  if (layout.showlegend === false) layout.margin.b = 44;
  await P.react(div, value.data.map((t) => recolour(JSON.parse(JSON.stringify(t)))), layout, { displaylogo: false, responsive: true, modeBarButtonsToRemove: ['lasso2d', 'select2d'] });
  if (!div.dataset.hover) { div.dataset.hover = '1'; div.on('plotly_hover', showPicture); div.on('plotly_unhover', hidePicture); }
};
const showPicture = (event) => {
  const picture = event.points[0] && event.points[0].customdata;
  const frame = element.querySelector('.figure-picture');
  if (!frame) return;
  if (!Array.isArray(picture)) { hidePicture(); return; }  // a point whose picture was not kept
  frame.querySelector('img').src = picture[0];
  frame.querySelector('figcaption').textContent = picture[1] || '';
  frame.hidden = false;
};
const hidePicture = () => { const frame = element.querySelector('.figure-picture'); if (frame) frame.hidden = true; };
new ResizeObserver(() => { if (window.craterPlotly && div._fullLayout && div.clientWidth > 0) window.craterPlotly.then((P) => P.Plots.resize(div)); }).observe(div);
onThemeChange(draw);
watch('value', draw);
draw();
