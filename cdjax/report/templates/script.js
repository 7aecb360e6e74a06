// What the page does beyond being read: texts of marks at once and by keyboard, values of maps.
// Without it the legend still toggles (by CSS), and browsers show the same texts after a while.
(() => {
  const tip = document.getElementById('tip');
  const show = (text, x, y) => {
    tip.textContent = text;
    tip.hidden = !text;
    if (!text) return;
    const box = tip.getBoundingClientRect();
    tip.style.left = Math.max(4, Math.min(x + 12, innerWidth - box.width - 4)) + 'px';
    tip.style.top = (y - box.height - 12 < 4 ? y + 16 : y - box.height - 12) + 'px';
  };
  const middle = (mark) => {
    const box = mark.getBoundingClientRect();
    return [box.x + box.width / 2, box.y + box.height / 2];
  };
  const cellAt = (image, x, y) => {
    const { rows, columns, values } = JSON.parse(image.dataset.cells);
    const box = image.getBoundingClientRect();
    const i = Math.floor((y - box.y) / box.height * rows.length);
    const j = Math.floor((x - box.x) / box.width * columns.length);
    if (!values[i] || values[i][j] === undefined) return '';
    const value = values[i][j] === null ? 'no problem' : String(values[i][j]).replace('-', '−');
    return `${rows[i]}, ${columns[j]}: ${value}`;
  };
  for (const svg of document.querySelectorAll('figure svg[role=img]')) {
    const marks = [...svg.querySelectorAll('title')].map((title) => {
      const mark = title.parentNode;
      mark.dataset.tip = title.textContent;
      title.remove();
      return mark;
    });
    const images = [...svg.querySelectorAll('[data-cells]')];
    if (!marks.length && !images.length) continue;
    const nearest = (x, y) => {
      let best = null, least = 24 ** 2;
      for (const mark of marks) {
        const box = mark.getBoundingClientRect();
        if (!box.width && !box.height) continue;  // hidden by the legend
        const dx = Math.max(box.left - x, 0, x - box.right);
        const dy = Math.max(box.top - y, 0, y - box.bottom);
        const [mx, my] = middle(mark);
        const far = dx * dx + dy * dy + ((mx - x) ** 2 + (my - y) ** 2) * 1e-3;
        if (far < least) [best, least] = [mark, far];
      }
      return best;
    };
    const light = (mark) => {
      svg.querySelectorAll('.lit').forEach((one) => one.classList.remove('lit'));
      if (mark) mark.classList.add('lit');
    };
    const point = ({ clientX: x, clientY: y }) => {
      const image = images.find((one) => {
        const box = one.getBoundingClientRect();
        return x >= box.left && x < box.right && y >= box.top && y < box.bottom;
      });
      if (image) return light(null), show(cellAt(image, x, y), x, y);
      const mark = nearest(x, y);
      light(mark);
      mark ? show(mark.dataset.tip, ...middle(mark)) : show('');
    };
    svg.addEventListener('pointermove', point);
    svg.addEventListener('pointerdown', point);
    const leave = () => { light(null); show(''); };
    svg.addEventListener('pointerleave', leave);
    if (!marks.length) continue;
    let at = -1;
    svg.tabIndex = 0;
    svg.addEventListener('blur', leave);
    svg.addEventListener('keydown', (event) => {
      const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
      if (event.key === 'Escape') leave();
      if (!step) return;
      event.preventDefault();
      const shown = marks.filter((mark) => mark.getBoundingClientRect().width);
      if (!shown.length) return;
      at = (at + step + shown.length) % shown.length;
      light(shown[at]);
      show(shown[at].dataset.tip, ...middle(shown[at]));
    });
  }
})();
