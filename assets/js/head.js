// Dark or light as chosen last time, before the first paint.
(() => {
  const saved = localStorage.getItem('craterlab-theme');
  if (!saved || new URLSearchParams(location.search).has('__theme')) return;
  const apply = () => document.body && document.body.classList.toggle('dark', saved === 'dark');
  document.addEventListener('DOMContentLoaded', apply);
})();
