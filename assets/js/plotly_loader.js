// One Plotly for the whole page, from the installed package's own file. The promise keeps that very object:
// another component could replace window.Plotly with a different version.
const loadPlotly = (src) => {
  if (!window.craterPlotly) {
    window.craterPlotly = new Promise((resolve, reject) => {
      const script = document.createElement('script');
      script.src = src;
      script.onload = () => resolve(window.Plotly);
      script.onerror = () => { window.craterPlotly = null; reject(new Error('the chart library could not be loaded from ' + src)); };
      document.head.appendChild(script);
    });
  }
  return window.craterPlotly;
};
const cssColour = (name) => getComputedStyle(document.body).getPropertyValue(name).trim();
const translucent = (colour, alpha) => {
  const n = parseInt(colour.slice(1), 16);
  return colour.length === 7 ? `rgba(${n >> 16}, ${(n >> 8) & 255}, ${n & 255}, ${alpha})` : colour;
};
const baseLayout = () => ({
  paper_bgcolor: 'rgba(0,0,0,0)', plot_bgcolor: 'rgba(0,0,0,0)', margin: { l: 52, r: 12, t: 8, b: 36 },
  font: { family: 'ui-sans-serif, system-ui, "Segoe UI", Roboto, "Liberation Sans", sans-serif', size: 11, color: cssColour('--muted') },
  hoverlabel: { font: { size: 11.5 }, bgcolor: cssColour('--panel'), bordercolor: cssColour('--line') },
  legend: { orientation: 'h', x: 0, y: 1.0, yanchor: 'bottom', font: { size: 11 }, itemwidth: 34 },
});
const axisStyle = (extra) => ({ gridcolor: cssColour('--line'), linecolor: cssColour('--line'), zeroline: false, automargin: true, ...extra });
const onThemeChange = (callback) => new MutationObserver(callback).observe(document.body, { attributes: true, attributeFilter: ['class'] });
