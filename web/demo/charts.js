// The two charts. Each is drawn at most once a display frame, whatever comes in.

/** A canvas in device pixels that draws itself when something changed. */
class Chart {
  #isDue = false;

  constructor(canvas) {
    this.canvas = canvas;
    this.context = canvas.getContext("2d");
    new ResizeObserver(() => this.due()).observe(canvas);
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => this.due());
  }

  due() {
    if (this.#isDue) return;
    this.#isDue = true;
    requestAnimationFrame(() => {
      this.#isDue = false;
      const { canvas, context } = this;
      const [width, height] = [canvas.clientWidth, canvas.clientHeight];
      if (width === 0) return;
      const scale = devicePixelRatio;
      canvas.width = Math.round(width * scale);
      canvas.height = Math.round(height * scale);
      context.scale(scale, scale);
      const style = getComputedStyle(canvas);
      const colour = (name) => style.getPropertyValue(`--${name}`).trim();
      context.font = "12px system-ui, sans-serif";
      this.draw(context, width, height, colour);
    });
  }
}

/** Latency of the latest frames: the page's view in grey, the pipeline's over it. */
export class LatencyChart extends Chart {
  static FRAMES = 240;
  onSummary = null;
  #frames = [];

  add(pageMs, pipelineMs) {
    this.#frames.push([pageMs, pipelineMs]);
    if (this.#frames.length > LatencyChart.FRAMES) this.#frames.shift();
    this.due();
  }

  clear() {
    this.#frames = [];
    this.due();
  }

  draw(context, width, height, colour) {
    const frames = this.#frames;
    if (frames.length === 0) return;
    const sorted = frames.map(([ms]) => ms).sort((a, b) => a - b);
    const at = (p) => sorted[Math.min(sorted.length - 1, Math.floor(p * sorted.length))];
    this.onSummary?.({ p50: at(0.5), p95: at(0.95), p99: at(0.99) });
    // To the 95th percentile: a few slow frames do not flatten the rest.
    const top = nice(at(0.95) * 1.15);
    const floor = height - 4;
    const y = (ms) => floor - Math.min(1, ms / top) * (floor - 16);
    const step = width / LatencyChart.FRAMES;
    context.strokeStyle = colour("line");
    context.fillStyle = colour("quiet");
    context.textBaseline = "bottom";
    for (const part of [0, 0.5, 1]) {
      const line = Math.round(y(top * part)) + 0.5;
      context.beginPath();
      context.moveTo(0, line);
      context.lineTo(width, line);
      context.stroke();
      if (part > 0) context.fillText(`${+(top * part).toFixed(3)} ms`, 2, line - 1);
    }
    const first = width - frames.length * step;
    for (const [which, name, alpha] of [[0, "quiet", 0.55], [1, "accent", 1]]) {
      context.fillStyle = colour(name);
      context.globalAlpha = alpha;
      frames.forEach((frame, i) => {
        const from = y(frame[which]);
        context.fillRect(first + i * step, from, Math.max(1, step - 1), floor - from);
      });
    }
    context.globalAlpha = 1;
  }
}

/** A line a sensor, the newest value to the right; anomalies as marks behind. */
export class SensorLines extends Chart {
  static ROWS = 400;
  #names;
  #rows = [];

  constructor(canvas, names) {
    super(canvas);
    this.#names = names;
  }

  add(values, isAnomaly) {
    this.#rows.push({ values, isAnomaly });
    if (this.#rows.length > SensorLines.ROWS) this.#rows.shift();
    this.due();
  }

  clear() {
    this.#rows = [];
    this.due();
  }

  draw(context, width, height, colour) {
    const rows = this.#rows;
    const LABEL = 28;
    const step = (width - LABEL) / SensorLines.ROWS;
    const first = width - rows.length * step;
    const lane = height / this.#names.length;
    context.fillStyle = colour("alarm");
    context.globalAlpha = 0.28;
    rows.forEach(({ isAnomaly }, i) => {
      if (isAnomaly) context.fillRect(first + i * step, 0, Math.max(1, step), height);
    });
    context.globalAlpha = 1;
    context.textBaseline = "middle";
    this.#names.forEach((name, at) => {
      const top = at * lane;
      context.fillStyle = colour("quiet");
      context.fillText(name, 0, top + lane / 2);
      context.strokeStyle = colour("line");
      context.beginPath();
      context.moveTo(LABEL, Math.round(top + lane) - 0.5);
      context.lineTo(width, Math.round(top + lane) - 0.5);
      context.stroke();

      const values = rows.map((row) => row.values[at]);
      const known = values.filter((value) => value !== null).sort((a, b) => a - b);
      if (known.length === 0) return;
      // From the 2nd to the 98th percentile, so that a spike leaves the rest legible.
      const cut = Math.floor(known.length * 0.02);
      const [low, high] = [known[cut], known[known.length - 1 - cut]];
      const span = high - low || 1;
      const y = (value) => top + lane - 5 - Math.max(-0.1, Math.min(1.1, (value - low) / span)) * (lane - 10);
      context.strokeStyle = colour("accent");
      context.lineWidth = 1.25;
      context.beginPath();
      let isDown = false;
      values.forEach((value, i) => {
        // A lost reading is a gap.
        if (value === null) isDown = false;
        else if (isDown) context.lineTo(first + i * step, y(value));
        else {
          context.moveTo(first + i * step, y(value));
          isDown = true;
        }
      });
      context.stroke();
      context.lineWidth = 1;
    });
  }
}

/** The next of 1, 2, 5 times a power of ten. */
function nice(value) {
  const power = 10 ** Math.floor(Math.log10(Math.max(value, 1e-6)));
  return [1, 2, 5, 10].find((factor) => factor * power >= value) * power;
}
