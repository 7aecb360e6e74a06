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
  const ring = document.getElementById('ring');
  const cellsOf = (image) => (image.cells ??= JSON.parse(image.dataset.cells));
  const tell = (image, i, j) => {
    const { rows, columns, values } = cellsOf(image);
    if (!values[i] || values[i][j] === undefined) return '';
    const value = values[i][j] === null ? 'no problem' : String(values[i][j]).replace('-', '−');
    return `${rows[i]}, ${columns[j]}: ${value}`;
  };
  const cellAt = (image, x, y) => {
    const { rows, columns } = cellsOf(image), box = image.getBoundingClientRect();
    const i = Math.floor((y - box.y) / box.height * rows.length);
    return tell(image, i, Math.floor((x - box.x) / box.width * columns.length));
  };
  const circle = (image, i, j) => {
    const { rows, columns } = cellsOf(image), box = image.getBoundingClientRect();
    const width = box.width / columns.length, height = box.height / rows.length;
    const [x, y] = [box.x + j * width, box.y + i * height];
    Object.assign(ring.style, { left: `${x}px`, top: `${y}px`, width: `${width}px`, height: `${height}px` });
    ring.hidden = false;
    show(tell(image, i, j), x + width / 2, y + height / 2);
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
      ring.hidden = true;
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
    // Keys go through the marks that are shown, or through the cells of a map; Page Up and Down go
    // to the next map, and behind the last one to the marks.
    let at, part, i, j;
    const start = () => { [at, part, i, j] = [-1, 0, 0, -1]; };
    start();
    svg.tabIndex = 0;
    svg.addEventListener('blur', () => { leave(); start(); });
    svg.addEventListener('keydown', (event) => {
      const [down, right] = {
        ArrowRight: [0, 1], ArrowLeft: [0, -1], ArrowDown: [1, 0], ArrowUp: [-1, 0],
      }[event.key] ?? [0, 0];
      const turn = { PageDown: 1, PageUp: -1 }[event.key] ?? 0;
      const parts = images.length + (marks.length ? 1 : 0);
      if (event.key === 'Escape') leave();
      if (!(right || (images.length && (down || turn)))) return;
      event.preventDefault();
      if (turn) [part, at, i, j] = [(part + turn + parts) % parts, -1, 0, -1];
      const image = images[part], step = turn ? 1 : right;
      light(null);
      if (image) {
        const { rows, columns } = cellsOf(image);
        i = Math.min(Math.max(i + down, 0), rows.length - 1);
        j = Math.min(Math.max(j + step, 0), columns.length - 1);
        circle(image, i, j);
        return;
      }
      const shown = marks.filter((mark) => mark.getBoundingClientRect().width);
      if (!shown.length || !step) return;
      at = (at + step + shown.length) % shown.length;
      light(shown[at]);
      show(shown[at].dataset.tip, ...middle(shown[at]));
    });
  }
})();
