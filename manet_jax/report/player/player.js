// The time: that of the video, or of the page's own clock where the browser cannot play the video.

const video = byId('video');
const player = {playable: true, playing: false, speed: 1, base: 0, since: 0};

function loadVideo() {
  video.addEventListener('error', setUnplayable);
  video.addEventListener('loadedmetadata', () => { if (!video.videoWidth) setUnplayable(); }); // sound, no picture
  video.addEventListener('play', () => setPlaying(true));
  for (const event of ['pause', 'ended']) video.addEventListener(event, () => { if (player.playable) setPlaying(false); });
  video.addEventListener('seeked', () => timeChanged());
  video.src = page.video.address;
}

function setUnplayable() {
  if (!player.playable) return;
  const time = video.currentTime;
  Object.assign(player, {playable: false, base: time, playing: false});
  video.hidden = true;
  const text = `This browser cannot play ${page.video.name}: it does not know the format, or the file is not where it was ` +
    'when this page was written. Times, segments, tables and keys work without it.';
  byId('unplayable').textContent = text;
  byId('unplayable').hidden = false;
  setPlaying(false);
  timeChanged();
}

function currentTime() {
  if (player.playable) return Math.min(video.currentTime, page.duration);
  const passed = player.playing ? (performance.now() - player.since) / 1000 * player.speed : 0;
  return Math.min(player.base + passed, page.duration);
}

function seek(time) {
  const wanted = Math.min(Math.max(time, 0), page.duration);
  if (player.playable) video.currentTime = wanted;
  else Object.assign(player, {base: wanted, since: performance.now()});
  timeChanged();
}

function play() {
  if (currentTime() >= page.duration - 0.5 / page.frameRate) seek(0);
  if (player.playable) {
    video.play().catch(() => setPlaying(false)); // an error of the file is reported by its own event
  } else {
    player.since = performance.now();
    setPlaying(true);
  }
}

function pause() {
  if (player.playable) {
    video.pause();
  } else {
    player.base = currentTime();
    setPlaying(false);
  }
}

function toggle() {
  if (player.playing) pause(); else play();
}

function setPlaying(playing) {
  const started = playing && !player.playing;
  player.playing = playing;
  byId('play').textContent = playing ? 'Pause' : 'Play';
  if (started) requestAnimationFrame(tick);
}

function setSpeed(speed) {
  Object.assign(player, {base: currentTime(), since: performance.now(), speed});
  video.playbackRate = speed;
}

function tick() {
  if (!player.playing) return;
  if (!player.playable && currentTime() >= page.duration) pause();
  repeatSegment();
  followTime();
  timeChanged();
  requestAnimationFrame(tick);
}

// A frame's number; times of frames are seldom exact in floating point.
function frameAt(time) {
  return Math.floor(time * page.frameRate + 1e-3);
}

// Goes to the middle of a frame, which no browser rounds to its neighbour.
function stepFrames(count) {
  pause();
  const last = Math.max(0, Math.ceil(page.duration * page.frameRate - 1e-3) - 1);
  seek((Math.min(Math.max(frameAt(currentTime()) + count, 0), last) + 0.5) / page.frameRate);
}
