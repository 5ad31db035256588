// The tables of segments and of counts. Of the segments, only the rows that are visible are in the document.

const SEGMENT_COLUMNS = [
  {name: 'Start', key: (s) => s.start, text: (s) => clockText(s.start, 2), number: true},
  {name: 'End', key: (s) => s.end, text: (s) => clockText(s.end, 2), number: true, wide: true},
  {name: 'Length', key: (s) => s.end - s.start, text: (s) => `${(s.end - s.start).toFixed(2)} s`, number: true},
  {name: 'Action', key: (s) => page.names[s.classId]},
  {name: 'Group', key: (s) => page.groupNames[groupOf(s)], wide: true},
  {name: 'Score', key: (s) => s.score, text: (s) => s.score.toFixed(2), number: true, falling: true},
];
const COUNT_COLUMNS = [
  {name: 'Action', key: (c) => c.name},
  {name: 'Group', key: (c) => c.group, wide: true},
  {name: 'Count', key: (c) => c.count, number: true, falling: true},
  {name: 'Per minute', key: (c) => c.rate, text: (c) => c.rate.toFixed(2), number: true, falling: true},
  {name: 'In all', key: (c) => c.total, text: (c) => `${c.total.toFixed(1)} s`, number: true, falling: true},
  {name: 'Mean length', key: (c) => c.mean, text: (c) => `${c.mean.toFixed(2)} s`, number: true, falling: true, wide: true},
];
const segmentOrder = {columns: SEGMENT_COLUMNS, column: SEGMENT_COLUMNS[0], falling: false};
const countOrder = {columns: COUNT_COLUMNS, column: COUNT_COLUMNS[2], falling: true};
const compareText = new Intl.Collator('en', {numeric: true}).compare;

let shownSegments = []; // of at least the threshold, by time
let listed = []; // those that the filters leave, in the table's order
let counts = [];

function buildTables() {
  buildHead('segment-table', segmentOrder, listSegments);
  buildHead('count-table', countOrder, listCounts);
  byId('group').append(new Option('All groups', ''), ...page.groupNames.map((name, i) => new Option(name, i)));
  byId('class').append(new Option('All actions', ''), ...page.names.map((name, i) => new Option(name, i)));
  for (const id of ['text', 'group', 'class']) byId(id).addEventListener('input', listSegments);
  byId('segment-scroller').addEventListener('scroll', drawSegmentRows);
}

function buildHead(id, order, update) {
  const cells = order.columns.map((column) => {
    const button = make('button', {type: 'button', onclick: () => { sortBy(order, column); update(); }}, column.name);
    return make('th', {scope: 'col', className: cellClass(column)}, button);
  });
  byId(id).tHead.replaceChildren(make('tr', {}, ...cells));
}

function cellClass(column) {
  return [column.number && 'number', column.wide && 'wide-only', column.name === 'Action' && 'action'].filter(Boolean).join(' ');
}

// The same column again turns the order around.
function sortBy(order, column) {
  order.falling = order.column === column ? !order.falling : Boolean(column.falling);
  order.column = column;
}

function sorted(items, {column, falling}) {
  const compare = column.number ? (a, b) => column.key(a) - column.key(b) : (a, b) => compareText(column.key(a), column.key(b));
  return [...items].sort((a, b) => (falling ? compare(b, a) : compare(a, b)) || a.index - b.index);
}

function markOrder(id, order) {
  [...byId(id).tHead.rows[0].cells].forEach((cell, i) => {
    if (order.columns[i] === order.column) cell.setAttribute('aria-sort', order.falling ? 'descending' : 'ascending');
    else cell.removeAttribute('aria-sort');
  });
}

function setThreshold(value) {
  shownSegments = page.segments.filter((segment) => segment.score >= value - 1e-9);
  byId('threshold-value').textContent = value.toFixed(2);
  byId('shown-count').textContent = `${shownSegments.length.toLocaleString('en')} of ${countText(page.segments.length, 'segment')}`;
  fillRows();
  listSegments();
  countActions();
  timeChanged();
}

function listSegments() {
  const text = byId('text').value.trim().toLowerCase(), group = byId('group').value, classId = byId('class').value;
  const names = (s) => `${page.names[s.classId]} ${page.groupNames[groupOf(s)]}`.toLowerCase();
  const kept = shownSegments.filter((s) => (!text || names(s).includes(text)) &&
    (!group || groupOf(s) === Number(group)) && (!classId || s.classId === Number(classId)));
  listed = sorted(kept, segmentOrder);
  markOrder('segment-table', segmentOrder);
  byId('listed').textContent = listed.length === shownSegments.length ? '' : `${listed.length.toLocaleString('en')} listed`;
  byId('no-segments').hidden = listed.length > 0;
  byId('no-segments').textContent = shownSegments.length ? 'No segment fits the filters.' :
    page.segments.length ? 'No segment has so high a score: lower the threshold.' : 'The model found no segments.';
  drawSegmentRows();
}

// Empty rows of their height stand for the rows above and below those that are visible.
function drawSegmentRows() {
  const holder = byId('segment-scroller'), body = byId('segment-table').tBodies[0];
  const height = parseFloat(getComputedStyle(holder).getPropertyValue('--table-row'));
  const first = Math.max(0, Math.min(Math.floor(holder.scrollTop / height) - 5, listed.length - 1));
  const last = Math.min(listed.length, first + Math.ceil(holder.clientHeight / height) + 12);
  const focused = body.contains(document.activeElement);
  const reachable = listed.includes(selected) ? selected : listed[first];
  const filler = (count) => {
    const row = make('tr', {className: 'filler'});
    row.setAttribute('aria-hidden', true);
    row.style.height = `${Math.max(count, 0) * height}px`;
    return row;
  };
  const drawn = listed.slice(first, last).map((segment, i) => segmentRow(segment, first + i, segment === reachable));
  body.replaceChildren(filler(first), ...drawn, filler(listed.length - last));
  byId('segment-table').setAttribute('aria-rowcount', listed.length + 1);
  if (focused) body.querySelector('[aria-current] button')?.focus({preventScroll: true});
}

function segmentRow(segment, position, reachable) {
  const row = make('tr', {onclick: () => choose(segment)});
  row.dataset.index = segment.index;
  row.setAttribute('aria-rowindex', position + 2);
  if (segment === selected) row.setAttribute('aria-current', 'true');
  for (const column of SEGMENT_COLUMNS) {
    const cell = row.insertCell(), text = column.text ? column.text(segment) : column.key(segment);
    cell.className = cellClass(column);
    // One row is reached by the tab key, and the arrows move from it.
    if (column.name === 'Action') cell.append(actionButton(segment, text, reachable)); else cell.textContent = text;
  }
  return row;
}

function actionButton(segment, text, reachable) {
  const button = make('button', {type: 'button', tabIndex: reachable ? 0 : -1, title: text}, text);
  button.style.setProperty('--color', page.colors[groupOf(segment)]);
  button.dataset.group = page.groupNames[groupOf(segment)];
  return button;
}

function revealRow(segment) {
  const position = listed.indexOf(segment), holder = byId('segment-scroller');
  const height = parseFloat(getComputedStyle(holder).getPropertyValue('--table-row'));
  const head = byId('segment-table').tHead.offsetHeight, top = position * height;
  if (position >= 0 && (top < holder.scrollTop || top + height > holder.scrollTop + holder.clientHeight - head)) {
    holder.scrollTop = top - (holder.clientHeight - head) / 2;
  }
  drawSegmentRows();
}

function countActions() {
  counts = [];
  for (const segment of shownSegments) {
    const count = counts[segment.classId] ||= {index: segment.classId, name: page.names[segment.classId],
      group: page.groupNames[groupOf(segment)], count: 0, total: 0};
    count.count++;
    count.total += segment.end - segment.start;
  }
  counts = counts.filter(Boolean);
  for (const each of counts) Object.assign(each, {rate: 60 * each.count / page.duration, mean: each.total / each.count});
  const absent = page.names.filter((_, id) => !counts.some((each) => each.index === id));
  byId('not-found').textContent = absent.length ? `Not found at this threshold: ${absent.join(', ')}.` : '';
  listCounts();
}

function listCounts() {
  counts = sorted(counts, countOrder);
  markOrder('count-table', countOrder);
  const rows = counts.map((each) => {
    const row = make('tr');
    for (const column of COUNT_COLUMNS) {
      const text = String(column.text ? column.text(each) : column.key(each));
      const cell = make(column.name === 'Action' ? 'th' : 'td', {className: cellClass(column)});
      if (column.name === 'Action') cell.append(countButton(each, text)); else cell.textContent = text;
      row.append(cell);
    }
    return row;
  });
  byId('count-table').tBodies[0].replaceChildren(...rows);
}

// Lists the segments of an action.
function countButton(each, text) {
  const show = () => {
    Object.assign(byId('text'), {value: ''});
    Object.assign(byId('group'), {value: ''});
    Object.assign(byId('class'), {value: String(each.index)});
    showTab('segments');
    listSegments();
  };
  const button = make('button', {type: 'button', title: `List the segments of ${text}`, onclick: show}, text);
  button.style.setProperty('--color', page.colors[page.groups[each.index]]);
  button.dataset.group = each.group;
  return button;
}

function showTab(name) {
  for (const each of ['segments', 'counts']) {
    const tab = byId(`tab-${each}`);
    tab.setAttribute('aria-selected', each === name);
    tab.tabIndex = each === name ? 0 : -1;
    byId(each).hidden = each !== name;
  }
  drawSegmentRows();
}

function saveTable() {
  const [items, columns, name] = byId('counts').hidden ? [listed, SEGMENT_COLUMNS, 'segments'] : [counts, COUNT_COLUMNS, 'counts'];
  const value = (column, item) => (column.number ? String(Number(column.key(item).toFixed(3))) : column.key(item));
  const quoted = (text) => `"${text.replaceAll('"', '""')}"`;
  const lines = [columns.map((column) => column.name), ...items.map((item) => columns.map((column) => value(column, item)))];
  // The mark tells spreadsheets that the text is UTF-8.
  const content = `\ufeff${lines.map((line) => line.map(quoted).join(',')).join('\r\n')}\r\n`;
  const address = URL.createObjectURL(new Blob([content], {type: 'text/csv'}));
  make('a', {href: address, download: `${page.title.replace(/[^\p{L}\p{N}._-]+/gu, '_')}_${name}.csv`}).click();
  setTimeout(() => URL.revokeObjectURL(address), 1000);
}
