// The timeline: rows of probabilities and segments, drawn where they are visible, and the overview above them.

const view = {start: 0, span: page.duration, width: 0, height: 0, row: 22, ruler: 22};
const folded = new Set();
const canvas = byId('rows'), scroller = byId('scroller');
const STEPS = [0.1, 0.2, 0.5, 1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 1800, 3600, 7200]; // seconds between marks
const INK = '#222', MUTED = '#5f5f5f', LINE = '#e4e4e1', CURSOR = '#b3261e';
let rows = [], drawing = false;

// At first those groups are open in which something was found.
function foldQuietGroups() {
  const found = new Set(page.segments.filter((segment) => segment.score >= page.threshold).map(groupOf));
  page.groupNames.forEach((_, group) => { if (found.size && !found.has(group)) folded.add(group); });
}

function setFolded(groups, fold) {
  for (const group of groups) if (fold) folded.add(group); else folded.delete(group);
  buildRows();
}

function buildRows() {
  rows = [];
  page.groupNames.forEach((name, group) => {
    if (!page.flat) rows.push({group, classId: -1, name, values: page.groupMaxima[group]});
    if (!page.flat && folded.has(group)) return;
    page.groups.forEach((each, classId) => {
      if (each === group) rows.push({group, classId, name: page.names[classId], values: probabilitiesOf(classId)});
    });
  });
  const focused = document.activeElement?.dataset?.group;
  byId('labels').replaceChildren(...rows.map(makeLabel));
  if (focused !== undefined) byId('labels').querySelector(`button[data-group="${focused}"]`)?.focus();
  fillRows();
  resizeTimeline();
}

function makeLabel(row) {
  row.now = make('span', {className: 'value'});
  const name = make('span', {className: 'name', title: row.name}, row.name);
  if (row.classId >= 0) return make('li', {className: page.flat ? 'flat' : ''}, name, row.now);
  row.count = make('span', {className: 'count'});
  const button = make('button', {type: 'button', onclick: () => setFolded([row.group], !folded.has(row.group))}, name, row.count);
  button.dataset.group = row.group;
  button.style.setProperty('--color', page.colors[row.group]);
  button.setAttribute('aria-expanded', !folded.has(row.group));
  return make('li', {className: 'group'}, button, row.now);
}

// Gives each row its segments; those of a higher score are drawn last, over others.
function fillRows() {
  for (const row of rows) {
    row.segments = shownSegments.filter((s) => (row.classId < 0 ? groupOf(s) === row.group : s.classId === row.classId));
    row.segments.sort((a, b) => a.score - b.score);
    if (row.count) row.count.textContent = row.segments.length || '';
  }
  requestDraw();
}

function resizeTimeline() {
  const style = getComputedStyle(scroller);
  view.row = parseFloat(style.getPropertyValue('--row'));
  view.ruler = parseFloat(style.getPropertyValue('--ruler'));
  view.width = byId('view').clientWidth;
  view.height = scroller.clientHeight;
  fitCanvas(canvas, view.width, view.height);
  const overview = byId('overview');
  fitCanvas(overview, overview.parentElement.clientWidth, overview.parentElement.clientHeight);
  requestDraw();
}

function fitCanvas(element, width, height) {
  const ratio = devicePixelRatio || 1;
  element.width = Math.round(width * ratio);
  element.height = Math.round(height * ratio);
  element.style.width = `${width}px`;
  element.style.height = `${height}px`;
}

function requestDraw() {
  if (drawing) return;
  drawing = true;
  requestAnimationFrame(() => { drawing = false; drawTimeline(); });
}

function drawTimeline() {
  if (!view.width) return;
  const context = begin(canvas, view.width, view.height);
  const top = scroller.scrollTop, columns = momentColumns();
  const first = Math.max(0, Math.floor(top / view.row));
  const last = Math.min(rows.length, Math.ceil((top + view.height - view.ruler) / view.row));
  for (let i = first; i < last; i++) drawRow(context, rows[i], view.ruler + i * view.row - top, columns);
  drawRuler(context);
  drawOverview();
  placeCursor();
}

function begin(element, width, height) {
  const context = element.getContext('2d');
  context.setTransform(element.width / width, 0, 0, element.height / height, 0, 0);
  context.clearRect(0, 0, width, height);
  return context;
}

// The first moment of each pixel column, and of the one behind the last.
function momentColumns() {
  const columns = new Int32Array(view.width + 1);
  let moment = momentAt(view.start);
  for (let x = 0; x <= view.width; x++) {
    const time = timeAt(x);
    while (moment < page.moments - 1 && page.edges[moment + 1] <= time) moment++;
    columns[x] = moment;
  }
  return columns;
}

function drawRow(context, row, y, columns) {
  const group = row.classId < 0, color = page.colors[row.group], bottom = y + view.row - 7;
  if (group) {
    context.fillStyle = '#f4f4f2';
    context.fillRect(0, y, view.width, view.row);
  }
  context.fillStyle = LINE;
  context.fillRect(0, y + view.row - 1, view.width, 1);
  context.globalAlpha = group ? 0.3 : 0.45;
  context.fillStyle = color;
  context.fill(curve(row.values, columns, bottom, view.row - 9));
  context.globalAlpha = 1;
  for (const segment of row.segments) drawSegment(context, segment, bottom, color);
}

// The area below a row's largest probability in each pixel column; below 2 % there is nothing to see.
function curve(values, columns, bottom, height) {
  const path = new Path2D(), width = columns.length - 1;
  let start = 0, level = -1;
  for (let x = 0; x <= width; x++) {
    let highest = -1;
    if (x < width) {
      highest = values[columns[x]];
      for (let i = columns[x] + 1; i < columns[x + 1]; i++) if (values[i] > highest) highest = values[i];
    }
    if (highest === level) continue;
    if (level > 5) path.rect(start, bottom - height * level / 255, x - start, height * level / 255);
    start = x;
    level = highest;
  }
  return path;
}

function drawSegment(context, segment, top, color) {
  const left = xAt(segment.start), right = xAt(segment.end);
  if (right < 0 || left > view.width) return;
  const x = Math.max(left, -4), width = Math.max(Math.min(right, view.width + 4) - x, 3), chosen = segment === selected;
  if (chosen || width > 5) { // an outline, so that light colours stand out too
    context.fillStyle = INK;
    context.fillRect(x - 1, top - (chosen ? 1 : 0), width + 2, chosen ? 7 : 5);
  }
  context.fillStyle = color;
  context.fillRect(x, top + 1, width, chosen ? 4 : 3);
  if (!chosen) return;
  context.fillStyle = INK;
  for (const edge of [x - 1, x + width - 0.5]) context.fillRect(edge, top + 8 - view.row, 1.5, view.row - 4);
}

function drawRuler(context) {
  context.fillStyle = '#fff';
  context.fillRect(0, 0, view.width, view.ruler);
  context.fillStyle = LINE;
  context.fillRect(0, view.ruler - 1, view.width, 1);
  const step = STEPS.find((each) => each / view.span * view.width >= 72) || STEPS[STEPS.length - 1];
  context.font = '11px system-ui, sans-serif';
  context.textBaseline = 'middle';
  for (let i = Math.ceil(view.start / step); i * step <= view.start + view.span; i++) {
    const x = xAt(i * step), text = clockText(i * step, step < 1 ? 1 : 0);
    context.fillStyle = MUTED;
    context.fillRect(x, view.ruler - 6, 1, 6);
    if (x + context.measureText(text).width < view.width) context.fillText(text, x + 4, view.ruler / 2);
    context.fillStyle = 'rgba(0, 0, 0, 0.05)';
    context.fillRect(x, view.ruler, 1, view.height);
  }
}

// A lane for each group, with all segments, and a frame around what the timeline shows.
function drawOverview() {
  const element = byId('overview'), width = element.parentElement.clientWidth, height = element.parentElement.clientHeight;
  const context = begin(element, width, height), lane = (height - 4) / page.groupNames.length;
  for (const segment of shownSegments) {
    context.fillStyle = page.colors[groupOf(segment)];
    const left = segment.start / page.duration * width, length = (segment.end - segment.start) / page.duration * width;
    context.fillRect(left, 2 + lane * groupOf(segment), Math.max(length, 1.5), Math.max(lane - 1, 1));
  }
  const left = view.start / page.duration * width, length = view.span / page.duration * width;
  context.fillStyle = 'rgba(255, 255, 255, 0.65)';
  context.fillRect(0, 0, left, height);
  context.fillRect(left + length, 0, width, height);
  context.strokeStyle = MUTED;
  context.strokeRect(left + 0.5, 0.5, Math.max(length - 1, 3), height - 1);
  context.fillStyle = CURSOR;
  context.fillRect(currentTime() / page.duration * width, 0, 1.5, height);
}

function xAt(time) {
  return (time - view.start) / view.span * view.width;
}

function timeAt(x) {
  return view.start + x / view.width * view.span;
}

function placeCursor() {
  const x = xAt(currentTime());
  byId('cursor').hidden = x < -1 || x > view.width + 1;
  byId('cursor').style.transform = `translateX(${x}px)`;
}

function setView(start, span) {
  view.span = Math.min(Math.max(span, Math.min(2, page.duration)), page.duration);
  view.start = Math.min(Math.max(start, 0), page.duration - view.span);
  requestDraw();
}

// Keeps the time at x in its place.
function zoom(factor, x = xAt(currentTime())) {
  const inside = Math.min(Math.max(x, 0), view.width), time = timeAt(inside);
  const span = Math.min(Math.max(view.span * factor, Math.min(2, page.duration)), page.duration);
  setView(time - inside / view.width * span, span);
}

// Turns the page where the time leaves what is visible.
function followTime() {
  const time = currentTime();
  if (time < view.start || time > view.start + view.span) setView(time - 0.1 * view.span, view.span);
}

function revealSegment(segment) {
  if (segment.start < view.start || segment.end > view.start + view.span) {
    setView(segment.start - 0.2 * view.span, view.span);
  }
  const index = rows.findIndex((row) => row.classId === segment.classId);
  const top = view.row * (index >= 0 ? index : rows.findIndex((row) => row.group === groupOf(segment)));
  if (top < scroller.scrollTop || top + view.row > scroller.scrollTop + view.height - view.ruler) {
    scroller.scrollTop = top - (view.height - view.ruler) / 2;
  }
}

// The row and the segment of a place in the canvas.
function placeAt(x, y) {
  if (y < view.ruler) return {};
  const row = rows[Math.floor((y - view.ruler + scroller.scrollTop) / view.row)];
  const near = (s) => xAt(s.start) - 3 <= x && x <= Math.max(xAt(s.end), xAt(s.start) + 2) + 3;
  return {row, segment: row?.segments.findLast(near)};
}

function showTip(event) {
  const {row, segment} = placeAt(event.offsetX, event.offsetY), tip = byId('tip'), time = timeAt(event.offsetX);
  tip.hidden = !row || event.pointerType !== 'mouse';
  if (tip.hidden) return;
  const percent = Math.round(row.values[momentAt(time)] / 2.55);
  tip.textContent = segment ? segmentText(segment) : `${row.name}: ${percent} % at ${clockText(time, 1)}`;
  const left = Math.min(event.offsetX + 12, view.width - tip.offsetWidth - 4);
  const top = event.offsetY + (event.offsetY > view.height - 50 ? -30 : 18);
  tip.style.transform = `translate(${Math.max(left, 0)}px, ${top}px)`;
}

function wheel(event) {
  if (event.ctrlKey || event.metaKey) {
    event.preventDefault();
    zoom(Math.exp(event.deltaY / 300), event.offsetX);
    return;
  }
  const along = event.shiftKey ? event.deltaY || event.deltaX : event.deltaX;
  if (Math.abs(along) <= (event.shiftKey ? 0 : Math.abs(event.deltaY))) return; // up and down: the browser scrolls
  event.preventDefault();
  setView(view.start + along / view.width * view.span, view.span);
}

// A click goes to a segment or a time; a drag moves along the time.
function listenToPointer() {
  let pressed = null;
  canvas.addEventListener('pointerdown', (event) => {
    if (event.button) return;
    pressed = {x: event.offsetX, y: event.offsetY, start: view.start, moved: false};
    canvas.setPointerCapture(event.pointerId);
  });
  canvas.addEventListener('pointermove', (event) => {
    showTip(event);
    if (!pressed) return;
    const distance = event.offsetX - pressed.x;
    pressed.moved ||= Math.abs(distance) > 4;
    if (pressed.moved) setView(pressed.start - distance / view.width * view.span, view.span);
  });
  canvas.addEventListener('pointerup', (event) => {
    const {segment} = placeAt(event.offsetX, event.offsetY);
    if (pressed && !pressed.moved && segment) choose(segment);
    else if (pressed && !pressed.moved) seek(timeAt(event.offsetX));
    pressed = null;
  });
  canvas.addEventListener('pointercancel', () => { pressed = null; });
  canvas.addEventListener('pointerleave', () => { byId('tip').hidden = true; });
  canvas.addEventListener('wheel', wheel, {passive: false});
}

// In the overview, a press or a drag shows what lies there.
function listenToOverview() {
  const element = byId('overview');
  const center = (event) => setView(event.offsetX / element.clientWidth * page.duration - view.span / 2, view.span);
  element.addEventListener('pointerdown', (event) => { element.setPointerCapture(event.pointerId); center(event); });
  element.addEventListener('pointermove', (event) => { if (event.buttons) center(event); });
}
