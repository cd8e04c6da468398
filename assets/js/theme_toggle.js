const KEY = 'craterlab-theme';
const saved = localStorage.getItem(KEY);
if (saved && !new URLSearchParams(location.search).has('__theme')) document.body.classList.toggle('dark', saved === 'dark');
element.querySelector('.theme-toggle').addEventListener('click', () => {
  const dark = document.body.classList.toggle('dark');
  localStorage.setItem(KEY, dark ? 'dark' : 'light');
});
