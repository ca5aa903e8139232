// Boxes, arrows and text of an SVG picture, in one look.

const FONT = "ui-sans-serif, system-ui, 'Segoe UI', Helvetica, Arial, sans-serif";
const INK = "#1f2937";
const FAINT = "#6b7280";

/** In pixels, from the picture's upper left corner. */
export interface Box {
  readonly x: number;
  readonly y: number;
  readonly width: number;
  readonly height: number;
}

export interface BoxStyle {
  readonly fill?: string;
  readonly stroke?: string;
  readonly dashed?: boolean;
  /** Small, many and close together: square, with a hair line. */
  readonly plain?: boolean;
  /** What a browser shows under the pointer. */
  readonly hint?: string;
}

export type Point = readonly [x: number, y: number];

export function escapeXml(text: string): string {
  return text.replaceAll("&", "&amp;").replaceAll("<", "&lt;").replaceAll(">", "&gt;");
}

function attributes(values: Readonly<Record<string, string | number | undefined>>): string {
  return Object.entries(values)
    .filter(([, value]) => value !== undefined)
    .map(([name, value]) => ` ${name}="${value}"`)
    .join("");
}

/** A picture that is built from back to front. */
export class Picture {
  readonly #width: number;
  readonly #height: number;
  readonly #title: string;
  readonly #parts: string[] = [];

  constructor(title: string, width: number, height: number) {
    this.#title = title;
    this.#width = width;
    this.#height = height;
  }

  rectangle(box: Box, style: BoxStyle = {}): void {
    const { fill = "#f9fafb", stroke = "#9ca3af", dashed = false, plain = false, hint } = style;
    const rest = hint === undefined ? "/>" : `><title>${escapeXml(hint)}</title></rect>`;
    this.#parts.push(
      `<rect${attributes({
        x: box.x,
        y: box.y,
        width: box.width,
        height: box.height,
        rx: plain ? undefined : 8,
        fill,
        stroke,
        "stroke-width": plain ? 0.5 : 1.5,
        "stroke-dasharray": dashed ? "6 4" : undefined,
      })}${rest}`,
    );
  }

  /** A box with a bold name and lines of small text below it, all centred. */
  labelled(box: Box, name: string, lines: readonly string[], style: BoxStyle = {}): void {
    this.rectangle(box, style);
    const middle = box.x + box.width / 2;
    const top = box.y + (box.height - 18 - 16 * lines.length) / 2;
    this.text([middle, top + 14], name, { bold: true });
    for (const [index, line] of lines.entries()) {
      this.text([middle, top + 32 + 16 * index], line, { small: true });
    }
  }

  text(
    [x, y]: Point,
    text: string,
    style: { bold?: boolean; small?: boolean; anchor?: "start" | "middle" | "end" } = {},
  ): void {
    this.#parts.push(
      `<text${attributes({
        x,
        y,
        "text-anchor": style.anchor ?? "middle",
        "font-size": style.small === true ? 12 : 14,
        "font-weight": style.bold === true ? 600 : undefined,
        fill: style.small === true ? FAINT : INK,
      })}>${escapeXml(text)}</text>`,
    );
  }

  /** Straight, without a head. */
  line([x1, y1]: Point, [x2, y2]: Point, style: { dashed?: boolean; colour?: string } = {}): void {
    this.#parts.push(
      `<line${attributes({
        x1,
        y1,
        x2,
        y2,
        stroke: style.colour ?? FAINT,
        "stroke-width": 1.5,
        "stroke-dasharray": style.dashed === true ? "5 4" : undefined,
      })}/>`,
    );
  }

  /** Through the points, with an arrow head at the last one. */
  arrow(points: readonly Point[], style: { dashed?: boolean; colour?: string } = {}): void {
    const [first, ...rest] = points;
    const path = `M${first!.join(" ")} ${rest.map((point) => `L${point.join(" ")}`).join(" ")}`;
    this.#arrow(path, style);
  }

  /** From the lower edge of one place to the upper edge of another, bent. */
  drop([x1, y1]: Point, [x2, y2]: Point, style: { dashed?: boolean; colour?: string } = {}): void {
    const bend = (y2 - y1) / 2;
    this.#arrow(`M${x1} ${y1} C${x1} ${y1 + bend} ${x2} ${y2 - bend} ${x2} ${y2}`, style);
  }

  #arrow(path: string, style: { dashed?: boolean; colour?: string }): void {
    this.#parts.push(
      `<path${attributes({
        d: path,
        fill: "none",
        stroke: style.colour ?? FAINT,
        "stroke-width": 1.5,
        "stroke-dasharray": style.dashed === true ? "5 4" : undefined,
        "marker-end": "url(#head)",
      })}/>`,
    );
  }

  toString(): string {
    const [width, height] = [this.#width, this.#height];
    return [
      `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 ${width} ${height}" width="${width}" height="${height}" font-family="${FONT}" role="img">`,
      `<title>${escapeXml(this.#title)}</title>`,
      `<defs><marker id="head" viewBox="0 0 10 10" refX="9" refY="5" markerWidth="7" markerHeight="7" orient="auto-start-reverse"><path d="M0 0 L10 5 L0 10 z" fill="${FAINT}"/></marker></defs>`,
      `<rect width="${width}" height="${height}" fill="#ffffff"/>`,
      ...this.#parts,
      "</svg>",
      "",
    ].join("\n");
  }
}
