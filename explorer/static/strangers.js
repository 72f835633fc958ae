/** Inputs that are hard, and inputs that are no digits, drawn by the page itself in the model's size. */
import { randomNumbers } from "./sweeps.js";

const DRAWN_SIDE = 112;

/**
 * All of them, in groups.
 * @param {number[]} shape channels, height, width
 * @returns {{title: string, digits?: boolean, inputs: {name: string, pixels: Uint8Array}[]}[]}
 */
export function makeStrangers(shape) {
  const drawn = (name, draw) => ({ name, pixels: render(shape, draw) });
  return [
    {
      title: "Halfway between two digits",
      digits: true,
      inputs: HALFWAY.map(([name, ...strokes]) =>
        drawn(name, (context) => strokes.forEach((points) => line(context, points))),
      ),
    },
    {
      title: "Letters",
      inputs: ["A", "K", "W", "R"].map((letter) => drawn(letter, (context) => write(context, letter))),
    },
    {
      title: "Clothes",
      inputs: Object.entries(CLOTHES).map(([name, points]) => drawn(name, (context) => fill(context, points))),
    },
    {
      title: "Noise",
      inputs: [
        noise("every pixel by chance", shape, 1, 3),
        noise("blocks by chance", shape, 4, 5),
        { name: "nothing at all", pixels: new Uint8Array(shape[0] * shape[1] * shape[2]) },
      ],
    },
  ];
}

/** Strokes through points in percent of the side. */
const HALFWAY = [
  [
    "4 or 9",
    [
      [36, 24],
      [32, 52],
      [66, 50],
    ],
    [
      [36, 26],
      [48, 18],
      [64, 24],
    ],
    [
      [66, 20],
      [62, 50],
      [58, 82],
    ],
  ],
  [
    "1 or 7",
    [
      [42, 26],
      [58, 22],
    ],
    [
      [58, 22],
      [52, 52],
      [46, 80],
    ],
  ],
  [
    "3 or 8",
    [
      [36, 26],
      [50, 20],
      [62, 30],
      [50, 46],
      [38, 36],
    ],
    [
      [50, 46],
      [66, 60],
      [54, 78],
      [36, 74],
      [37, 62],
    ],
  ],
  [
    "5 or 6",
    [
      [62, 20],
      [44, 24],
      [36, 46],
      [52, 44],
      [64, 58],
      [54, 78],
      [38, 74],
      [36, 60],
    ],
  ],
];

/** Corners in percent of the side. */
const CLOTHES = {
  shirt: [
    [34, 22],
    [44, 28],
    [56, 28],
    [66, 22],
    [84, 36],
    [74, 48],
    [68, 42],
    [68, 80],
    [32, 80],
    [32, 42],
    [26, 48],
    [16, 36],
  ],
  trousers: [
    [32, 18],
    [68, 18],
    [72, 82],
    [56, 82],
    [50, 38],
    [44, 82],
    [28, 82],
  ],
  boot: [
    [36, 18],
    [56, 18],
    [58, 56],
    [80, 66],
    [82, 78],
    [32, 78],
  ],
};

function render([channels, height, width], draw) {
  const large = canvasOf(DRAWN_SIDE, DRAWN_SIDE);
  const context = large.getContext("2d");
  context.fillRect(0, 0, DRAWN_SIDE, DRAWN_SIDE);
  Object.assign(context, {
    fillStyle: "#fff",
    strokeStyle: "#fff",
    lineWidth: 10,
    lineCap: "round",
    lineJoin: "round",
  });
  draw(context);
  const small = canvasOf(height, width);
  const shrinking = small.getContext("2d");
  shrinking.imageSmoothingQuality = "high";
  shrinking.drawImage(large, 0, 0, width, height);
  const { data } = shrinking.getImageData(0, 0, width, height);
  return Uint8Array.from(
    { length: channels * height * width },
    (_, index) => data[(index % (height * width)) * 4],
  );
}

function line(context, points) {
  context.beginPath();
  points.forEach(([x, y], index) => {
    const [toX, toY] = [(x * DRAWN_SIDE) / 100, (y * DRAWN_SIDE) / 100];
    if (index === 0) context.moveTo(toX, toY);
    else context.lineTo(toX, toY);
  });
  context.stroke();
}

function fill(context, points) {
  context.beginPath();
  for (const [x, y] of points) context.lineTo((x * DRAWN_SIDE) / 100, (y * DRAWN_SIDE) / 100);
  context.fill();
}

function write(context, letter) {
  Object.assign(context, {
    font: `600 ${DRAWN_SIDE * 0.72}px sans-serif`,
    textAlign: "center",
    textBaseline: "middle",
  });
  context.fillText(letter, DRAWN_SIDE / 2, DRAWN_SIDE * 0.54);
}

function noise(name, [channels, height, width], block, seed) {
  const random = randomNumbers(seed);
  const across = Math.ceil(width / block);
  const values = Array.from({ length: Math.ceil(height / block) * across }, () => Math.floor(random() * 256));
  const valueAt = (index) =>
    values[Math.floor(Math.floor(index / width) / block) * across + Math.floor((index % width) / block)];
  return {
    name,
    pixels: Uint8Array.from({ length: channels * height * width }, (_, index) =>
      valueAt(index % (height * width)),
    ),
  };
}

function canvasOf(height, width) {
  return Object.assign(document.createElement("canvas"), { height, width });
}
