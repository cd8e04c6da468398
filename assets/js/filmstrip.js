// Sample grids over the episodes: a scrubber, one tile per image cut out of the grid's PNG, its reward and the reason.
// Text from runs only ever enters by textContent.
const slider = element.querySelector('input[type=range]');
const title = element.querySelector('.film-title');
const tiles = element.querySelector('.strip');
const follow = element.querySelector('.film-follow');
const path = element.querySelector('.film-path');
const make = (tag, className, content) => { const node = document.createElement(tag); if (className) node.className = className; if (content !== undefined) node.textContent = content; return node; };
const number = (v) => (v === null || v === undefined || !isFinite(v) ? '–' : Number(v).toPrecision(3).replace(/^-/, '−'));
const cache = new Map(); // what is read or being read; a failure is not kept, so that the next look asks again
let run = null, pinned = false, drawing = 0;

const read = async (url) => {
  if (!cache.has(url)) {
    cache.set(url, fetch(url).then((r) => (r.ok ? r.json() : null)).catch(() => null));
    if (cache.size > 60) cache.delete(cache.keys().next().value);
  }
  const found = await cache.get(url);
  if (!found) cache.delete(url);
  return found;
};
const size = (url) => new Promise((resolve) => { const image = new Image(); image.onload = () => resolve([image.naturalWidth, image.naturalHeight]); image.onerror = () => resolve(null); image.src = url; });

const reason = (image, episode) => {
  const e = image.explanation || {};
  const box = make('details');
  box.append(make('summary', '', 'why'));
  const other = e.companion >= 0 ? `nearest companion: ${e.companion_kind === 'group' ? 'image ' + (e.companion + 1) + ' of this group' : e.companion_kind + ' image ' + (e.companion + 1)}` : 'no companion';
  [`attraction to the reference ${number(e.attraction)}`, `repulsion from the others ${number(e.repulsion)}`, other, e.note, `seed ${image.seed}`].filter(Boolean).forEach((line) => box.append(make('div', '', line)));
  Object.entries(image.components || {}).forEach(([name, value]) => box.append(make('div', '', `${name}: ${number(value)}`)));
  return box;
};

const tile = (image, png, extent) => {
  const figure = make('figure');
  const [x, y, w, h] = image.box;
  const cut = make('div', 'tile');
  cut.setAttribute('role', 'img');
  cut.setAttribute('aria-label', image.prompt || 'sample');
  cut.title = image.prompt || '';
  cut.style.backgroundImage = `url("${png}")`;
  cut.style.backgroundSize = `${(100 * extent[0]) / w}% ${(100 * extent[1]) / h}%`;
  const share = (offset, part, whole) => (whole > part ? (100 * offset) / (whole - part) : 0);
  cut.style.backgroundPosition = `${share(x, w, extent[0])}% ${share(y, h, extent[1])}%`;
  const caption = make('figcaption');
  if (image.credit !== null && image.credit !== undefined) {
    const reward = make('span', 'credit ' + (image.credit >= 0 ? 'up' : 'down'), number(image.credit));
    reward.title = 'reward of this image, see the caption above';
    caption.append(reward);
    caption.append(reason(image));
  }
  figure.append(cut, caption);
  return figure;
};

const show = async () => {
  const value = props.value;
  const samples = (value && value.samples) || [];
  element.querySelector('.film-empty').hidden = samples.length > 0;
  element.querySelector('.film-body').hidden = samples.length === 0;
  if (!samples.length) { tiles.replaceChildren(); return; }
  if (value.run !== run) { run = value.run; pinned = false; }
  slider.max = String(samples.length - 1);
  if (!pinned) slider.value = slider.max;
  const sample = samples[Math.min(Number(slider.value), samples.length - 1)];
  const ticket = ++drawing;
  const [info, extent] = await Promise.all([read(sample.json), size(sample.png)]);
  if (ticket !== drawing || !info || !extent) return;
  title.textContent = `Episode ${sample.episode}` + (info.score === null || info.score === undefined ? '' : ` · score of these ${(info.images || []).length}: ${number(info.score)}`);
  slider.setAttribute('aria-valuetext', title.textContent);
  follow.textContent = pinned ? 'Follow the newest' : 'Following the newest';
  follow.disabled = !pinned;
  const open = [...tiles.querySelectorAll('details')].map((d) => d.open);
  tiles.replaceChildren(...(info.images || []).map((image) => tile(image, sample.png, extent)));
  tiles.querySelectorAll('details').forEach((d, i) => { d.open = Boolean(open[i]); });
  tiles.dataset.episode = String(sample.episode);
  const strips = (value.denoising || []).filter((d) => d.episode <= sample.episode);
  path.hidden = strips.length === 0;
  if (strips.length) path.querySelector('img').src = strips[strips.length - 1].png;
};
slider.addEventListener('input', () => { pinned = Number(slider.value) < Number(slider.max); show(); });
follow.addEventListener('click', () => { pinned = false; show(); });
watch('value', show);
show();
