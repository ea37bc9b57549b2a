/** Points that belong together. */
export interface Series {
  readonly name: string;
  /** Index of its colour; the same name should have the same one in every plot. */
  readonly colour: number;
  /** `level` is a dashed line across the whole plot at the height of its only point, which is drawn too. */
  readonly kind: "dots" | "line" | "level";
  readonly points: readonly (readonly [x: number, y: number])[];
}

export interface Axis {
  readonly label: string;
  /** Ends of the axis; otherwise those of the points, and 0. */
  readonly range?: readonly [number, number];
  /** Numbers are shares. */
  readonly percent?: boolean;
}

export interface Plot {
  readonly title: string;
  readonly x: Axis;
  readonly y: Axis;
  readonly series: readonly Series[];
}

const [WIDTH, HEIGHT] = [560, 320] as const;
const MARGIN = { left: 58, right: 14, top: 30, bottom: 42 } as const;

/** Told apart by most who see few colours. @see Okabe and Ito, Color Universal Design, 2008 */
const COLOURS = ["#0072b2", "#d55e00", "#009e73", "#cc79a7", "#b8860b", "#56b4e9", "#7f7f7f"] as const;

/** The colour of an index, as in plots. */
export function colourOf(index: number): string {
  return COLOURS[index % COLOURS.length]!;
}

/** Draws a plot as an SVG element. Points that are not finite are left out. */
export function plotSvg({ title, x, y, series }: Plot): string {
  const points = series.flatMap((one) => one.points).filter(isFinitePoint);
  const [left, right] = x.range ?? extent(points.map(([value]) => value));
  const [bottom, top] = y.range ?? extent(points.map(([, value]) => value));
  const toX = (value: number) => MARGIN.left + (value - left) / (right - left) * (WIDTH - MARGIN.left - MARGIN.right);
  const toY = (value: number) => HEIGHT - MARGIN.bottom - (value - bottom) / (top - bottom) * PLOT_HEIGHT;
  const middle = (MARGIN.left + WIDTH - MARGIN.right) / 2;
  const parts = [
    text(title, { x: MARGIN.left, y: 18, className: "title" }),
    ...ticks(left, right).flatMap((value) => [
      line([toX(value), toY(bottom)], [toX(value), toY(top)], "grid"),
      text(number(value, x), { x: toX(value), y: HEIGHT - MARGIN.bottom + 16, anchor: "middle" }),
    ]),
    ...ticks(bottom, top).flatMap((value) => [
      line([toX(left), toY(value)], [toX(right), toY(value)], "grid"),
      text(number(value, y), { x: MARGIN.left - 6, y: toY(value) + 4, anchor: "end" }),
    ]),
    text(x.label, { x: middle, y: HEIGHT - 8, anchor: "middle" }),
    `<g transform="translate(14 ${coordinate(toY((bottom + top) / 2))}) rotate(-90)">${
      text(y.label, { x: 0, y: 0, anchor: "middle" })
    }</g>`,
    ...series.map((one) => drawn(one, toX, toY, [left, right])),
  ];
  return `<svg viewBox="0 0 ${WIDTH} ${HEIGHT}" role="img" aria-label="${escapeXml(title)}">${parts.join("")}</svg>`;
}

const PLOT_HEIGHT = HEIGHT - MARGIN.top - MARGIN.bottom;

type Scale = (value: number) => number;

function drawn(
  { name, colour, kind, points }: Series,
  toX: Scale,
  toY: Scale,
  [left, right]: readonly [number, number],
): string {
  const at = points.filter(isFinitePoint).map(([x, y]) => [coordinate(toX(x)), coordinate(toY(y))] as const);
  const paint = colourOf(colour);
  const dots = () =>
    at.map(([x, y]) => `<circle cx="${x}" cy="${y}" r="4" fill="${paint}"><title>${escapeXml(name)}</title></circle>`);
  switch (kind) {
    case "dots":
      return dots().join("");
    case "line":
      return `<polyline points="${at.map((point) => point.join(",")).join(" ")}" fill="none" stroke="${paint}" ` +
        `stroke-width="1.5"><title>${escapeXml(name)}</title></polyline>`;
    case "level":
      return at.map(([, y]) =>
        `<line x1="${coordinate(toX(left))}" y1="${y}" x2="${coordinate(toX(right))}" y2="${y}" stroke="${paint}" ` +
        `stroke-dasharray="5 4"/>`
      ).concat(dots()).join("");
    default:
      return kind satisfies never;
  }
}

/** Round numbers, four to eight of them, between two ends. */
export function ticks(from: number, to: number): number[] {
  const rough = (to - from) / 5;
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = power * [1, 2, 5, 10].find((factor) => factor * power >= rough * 0.8)!;
  const first = Math.ceil(from / step - 1e-9);
  const count = Math.floor(to / step + 1e-9) - first + 1;
  return Array.from({ length: count }, (_, i) => Number(((first + i) * step).toPrecision(12)));
}

/** The ends of an axis that shows 0 and all values, with a little room. */
function extent(values: readonly number[]): readonly [number, number] {
  let [low, high] = [0, 0];
  for (const value of values) [low, high] = [Math.min(low, value), Math.max(high, value)];
  return low === high ? [low, low + 1] : [low * 1.05, high * 1.05];
}

function isFinitePoint([x, y]: readonly [number, number]): boolean {
  return Number.isFinite(x) && Number.isFinite(y);
}

function number(value: number, { percent }: Axis): string {
  return percent ? `${Number((100 * value).toPrecision(6))} %` : String(value);
}

/** Tenths of a pixel are enough. */
function coordinate(value: number): number {
  return Math.round(10 * value) / 10;
}

function line([x1, y1]: readonly [number, number], [x2, y2]: readonly [number, number], className: string): string {
  const [a, b, c, d] = [x1, y1, x2, y2].map(coordinate);
  return `<line x1="${a}" y1="${b}" x2="${c}" y2="${d}" class="${className}"/>`;
}

function text(
  content: string,
  { x, y, anchor = "start", className }: { x: number; y: number; anchor?: string; className?: string },
): string {
  const named = className === undefined ? "" : ` class="${className}"`;
  return `<text x="${coordinate(x)}" y="${coordinate(y)}" text-anchor="${anchor}"${named}>${escapeXml(content)}</text>`;
}

/** Text as XML and HTML hold it, in attributes too. */
export function escapeXml(content: string): string {
  const entities: Readonly<Record<string, string>> = { "&": "&amp;", "<": "&lt;", ">": "&gt;", '"': "&quot;" };
  return content.replaceAll(/[&<>"]/g, (character) => entities[character]!);
}
