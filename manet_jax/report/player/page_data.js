'use strict';
// What the page shows, as video_page.py wrote it, and how times and numbers are written.

const page = readPage();

function readPage() {
  const value = JSON.parse(document.getElementById('data').textContent);
  value.edges = new Float32Array(decodeBase64(value.edges).buffer);
  value.probabilities = decodeBase64(value.probabilities); // all moments of the first class, then of the second, ...
  value.segments = value.segments.map(([start, end, classId, score]) => ({start, end, classId, score}));
  value.segments.sort((a, b) => a.start - b.start || a.classId - b.classId || a.end - b.end);
  value.segments.forEach((segment, index) => { segment.index = index; });
  value.groupMaxima = value.groupNames.map((_, group) => groupMaximum(value, group));
  // Where every class is a group of its own, there is nothing to fold.
  value.flat = value.groupNames.length === value.names.length;
  return value;
}

function decodeBase64(text) {
  return Uint8Array.from(atob(text), (character) => character.charCodeAt(0));
}

// The largest probability of a group's classes at each moment.
function groupMaximum(value, group) {
  const maximum = new Uint8Array(value.moments);
  value.groups.forEach((each, classId) => {
    if (each !== group) return;
    const offset = classId * value.moments;
    for (let i = 0; i < value.moments; i++) maximum[i] = Math.max(maximum[i], value.probabilities[offset + i]);
  });
  return maximum;
}

function probabilitiesOf(classId) {
  return page.probabilities.subarray(classId * page.moments, (classId + 1) * page.moments);
}

function groupOf(segment) {
  return page.groups[segment.classId];
}

// The moment that covers a time: the last one that begins at it or before.
function momentAt(time) {
  let low = 0, high = page.moments - 1;
  while (low < high) {
    const middle = (low + high + 1) >> 1;
    if (page.edges[middle] <= time) low = middle; else high = middle - 1;
  }
  return low;
}

// A time as hours, minutes and seconds, such as 1:02:05.00 or 2:05.5, with so many decimals.
function clockText(seconds, decimals = 0) {
  const units = Math.round(seconds * 10 ** decimals), scale = 10 ** decimals;
  const whole = Math.floor(units / scale), hours = Math.floor(whole / 3600), minutes = Math.floor(whole / 60) % 60;
  const rest = (whole % 60 + (units % scale) / scale).toFixed(decimals).padStart(decimals ? decimals + 3 : 2, '0');
  return hours ? `${hours}:${String(minutes).padStart(2, '0')}:${rest}` : `${minutes}:${rest}`;
}

function countText(count, noun) {
  return `${count.toLocaleString('en')} ${noun}${count === 1 ? '' : 's'}`;
}

function byId(id) {
  return document.getElementById(id);
}

// An element with text, never with markup: names may be anything.
function make(tag, properties = {}, ...children) {
  const element = Object.assign(document.createElement(tag), properties);
  element.append(...children);
  return element;
}
