// What joins the video, the timeline and the tables: the chosen segment, the keys, and the start of the page.

let selected = null;
let labelsAt = 0; // when the probabilities beside the names were last written

function segmentText(segment) {
  const times = `${clockText(segment.start, 2)} to ${clockText(segment.end, 2)}`;
  return `${page.names[segment.classId]}, ${times}, score ${segment.score.toFixed(2)}`;
}

function choose(segment) {
  selected = segment;
  seek(segment.start);
  revealSegment(segment);
  revealRow(segment);
  byId('spoken').textContent = segmentText(segment);
  requestDraw();
}

// The next or previous one of the listed segments: by time, or within the table in its order.
function stepSegment(direction) {
  const inTable = byId('segment-table').tBodies[0].contains(document.activeElement);
  const order = inTable ? listed : [...listed].sort((a, b) => a.index - b.index);
  const time = currentTime(), near = 0.5 / page.frameRate;
  const current = inTable || (selected && time > selected.start - near && time < selected.end + near) ? order.indexOf(selected) : -1;
  let next;
  if (current >= 0) next = order[current + direction];
  else if (inTable) next = order[0];
  else next = direction > 0 ? order.find((s) => s.start > time) : order.findLast((s) => s.start < time);
  if (next) choose(next);
}

function repeatSegment() {
  if (byId('repeat').checked && selected && currentTime() >= selected.end) seek(selected.start);
}

function timeChanged() {
  const time = currentTime(), reached = time + 1e-3; // browsers round times
  byId('time').textContent = `${clockText(time, 2)} / ${clockText(page.duration, 2)} · frame ${frameAt(time).toLocaleString('en')}`;
  const active = shownSegments.filter((segment) => segment.start <= reached && reached < segment.end);
  const names = active.map((segment) => `${page.names[segment.classId]} ${segment.score.toFixed(2)}`);
  byId('now').textContent = names.length ? `Now: ${names.join(' · ')}` : 'Now: no segment';
  canvas.setAttribute('aria-valuenow', time.toFixed(2));
  canvas.setAttribute('aria-valuetext', `${clockText(time, 2)}${names.length ? `, ${names.join(', ')}` : ''}`);
  placeCursor();
  const now = performance.now();
  if (player.playing && now - labelsAt < 200) return; // numbers that change faster cannot be read
  labelsAt = now;
  const moment = momentAt(time);
  for (const row of rows) row.now.textContent = `${Math.round(row.values[moment] / 2.55)} %`;
  drawOverview();
}

const KEYS = {
  ' ': toggle,
  ArrowLeft: (event) => (event.shiftKey ? seek(currentTime() - 1) : stepFrames(-1)),
  ArrowRight: (event) => (event.shiftKey ? seek(currentTime() + 1) : stepFrames(1)),
  ArrowUp: () => stepSegment(-1),
  ArrowDown: () => stepSegment(1),
  p: () => stepSegment(-1),
  n: () => stepSegment(1),
  Home: () => seek(0),
  End: () => seek(page.duration),
  r: () => byId('repeat').click(),
  '+': () => zoom(1 / 1.5),
  '=': () => zoom(1 / 1.5),
  '-': () => zoom(1.5),
  0: () => setView(0, page.duration),
  '?': () => byId('keys').showModal(),
};

function pressKey(event) {
  const within = (selector) => event.target.closest?.(selector);
  if (event.ctrlKey || event.metaKey || event.altKey || byId('keys').open) return;
  if (within('input:not([type=checkbox]), select')) return; // which have keys of their own
  if (within('[role=tab]') && /^Arrow(Left|Right)$/.test(event.key)) return;
  if (event.key === ' ' && within('button, a, input')) return; // which it presses
  const action = KEYS[event.key];
  if (!action) return;
  event.preventDefault();
  action(event);
}

function listen() {
  const clicks = {
    play: toggle, 'frame-back': () => stepFrames(-1), 'frame-on': () => stepFrames(1), previous: () => stepSegment(-1),
    next: () => stepSegment(1), 'zoom-in': () => zoom(1 / 1.5), 'zoom-out': () => zoom(1.5),
    'zoom-all': () => setView(0, page.duration), 'fold-all': () => setFolded(page.groupNames.keys(), true),
    'unfold-all': () => setFolded(page.groupNames.keys(), false), 'open-keys': () => byId('keys').showModal(),
    'tab-segments': () => showTab('segments'), 'tab-counts': () => showTab('counts'), save: saveTable, video: toggle,
  };
  for (const [id, action] of Object.entries(clicks)) byId(id).addEventListener('click', action);
  byId('speed').addEventListener('change', () => setSpeed(Number(byId('speed').value)));
  byId('mute').addEventListener('change', () => { video.muted = byId('mute').checked; });
  byId('threshold').addEventListener('input', () => setThreshold(Number(byId('threshold').value)));
  document.querySelector('[role=tablist]').addEventListener('keydown', switchTab);
  document.addEventListener('keydown', pressKey);
  scroller.addEventListener('scroll', requestDraw);
  new ResizeObserver(() => { resizeTimeline(); drawSegmentRows(); }).observe(scroller);
  listenToPointer();
  listenToOverview();
}

function switchTab(event) {
  if (event.target.role !== 'tab' || !['ArrowLeft', 'ArrowRight'].includes(event.key)) return;
  const other = byId('counts').hidden ? 'counts' : 'segments';
  showTab(other);
  byId(`tab-${other}`).focus();
}

function start() {
  const facts = [clockText(page.duration, 1), `${Number(page.frameRate.toFixed(2))} frames/s`];
  byId('facts').textContent = [...facts, `${page.names.length} actions`].join(' · ');
  byId('folding').hidden = page.flat;
  document.body.classList.toggle('hours', page.duration >= 3600);
  canvas.setAttribute('aria-valuemax', page.duration);
  byId('threshold').value = page.threshold;
  buildTables();
  foldQuietGroups();
  buildRows();
  setThreshold(page.threshold);
  listen();
  loadVideo();
}

start();
