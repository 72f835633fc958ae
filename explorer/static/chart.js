/** Line charts as SVG. */
import { makeSvg } from "./dom.js";

const HEIGHT = 200;
const MARGIN = { left: 44, right: 8, top: 22, bottom: 34 };

/**
 * A chart of curves over shared places.
 * @param {{x: number[], curves: {values: number[], main?: boolean}[], most: number, title: string, axis: string,
 *   name?: string, writeX?: (x: number) => string, writeY: (y: number) => string, mark?: number, width?: number,
 *   height?: number}} chart
 *   `most` is the upper end of the y axis, which begins at 0; `name` is for screen readers, where it is not the title;
 *   `mark` is a place on the x axis.
 * @returns {SVGElement}
 */
export function lineChart(chart) {
  const { x, curves, most, title, axis, name = title, writeX, writeY, mark, width = 760, height = HEIGHT } = chart;
  const [first, last] = [x[0], x.at(-1)];
  const toX = (value) =>
    MARGIN.left + ((value - first) / (last - first || 1)) * (width - MARGIN.left - MARGIN.right);
  const toY = (value) =>
    height - MARGIN.bottom - (Math.min(value, most) / most) * (height - MARGIN.top - MARGIN.bottom);
  const svg = makeSvg("svg", { viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": name });
  svg.append(makeSvg("text", { x: 0, y: 11 }, title));
  for (const share of [0, 0.5, 1]) {
    const y = toY(share * most);
    svg.append(makeSvg("line", { class: "axis", x1: MARGIN.left, x2: width - MARGIN.right, y1: y, y2: y }));
    svg.append(makeSvg("text", { x: MARGIN.left - 7, y: y + 4, "text-anchor": "end" }, writeY(share * most)));
  }
  if (writeX)
    svg.append(
      ...ticks(x, width).map((value) =>
        makeSvg("text", { x: toX(value), y: height - MARGIN.bottom + 16, "text-anchor": "middle" }, writeX(value)),
      ),
    );
  svg.append(makeSvg("text", { x: (MARGIN.left + width) / 2, y: height - 3, "text-anchor": "middle" }, axis));
  if (mark !== undefined)
    svg.append(makeSvg("line", { class: "mark", x1: toX(mark), x2: toX(mark), y1: toY(most), y2: toY(0) }));
  for (const { values, main } of curves) {
    const points = values.map((value, index) => `${toX(x[index]).toFixed(1)},${toY(value).toFixed(1)}`).join(" ");
    svg.append(makeSvg("polyline", { class: main ? "line main" : "line", points }));
  }
  return svg;
}

/** Few enough of the places to be readable, the first and the last among them. */
function ticks(x, width) {
  const most = Math.max(2, Math.floor(width / 75));
  const gaps = x.length - 1;
  let every = 1;
  while (gaps % every || gaps / every + 1 > most) every++;
  return x.filter((_, index) => index % every === 0);
}
