/** Making elements. */

/** The element with this id. @param {string} id @returns {HTMLElement} */
export const byId = (id) => document.getElementById(id);

/**
 * An element.
 * @param {string} tag
 * @param {Record<string, any>} properties set on it; those with a dash as attributes
 * @param {...(Node|string)} children
 * @returns {any}
 */
export function make(tag, properties = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (name.includes("-") || name === "role") element.setAttribute(name, value);
    else element[name] = value;
  }
  element.append(...children);
  return element;
}

const SVG = "http://www.w3.org/2000/svg";

/** An SVG element. @param {string} tag @param {Record<string, any>} attributes @param {...(Node|string)} children */
export function makeSvg(tag, attributes = {}, ...children) {
  const element = document.createElementNS(SVG, tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, String(value));
  element.append(...children);
  return element;
}

/**
 * Radio buttons in a fieldset; the first is chosen.
 * @param {HTMLElement} fieldset
 * @param {string} name
 * @param {string[]} titles
 * @param {(index: number) => void} chosen
 * @param {number} at which is chosen at first
 */
export function makeChoice(fieldset, name, titles, chosen, at = 0) {
  const legend = fieldset.querySelector("legend");
  const options = titles.map((title, index) => {
    const input = make("input", { type: "radio", name, checked: index === at });
    input.addEventListener("change", () => chosen(index));
    return make("label", {}, input, make("span", {}, title));
  });
  fieldset.replaceChildren(legend, ...options);
}

/** A share as people read it, such as 99.87 %. @param {number} share */
export const percent = (share) => `${(share * 100).toFixed(2)}\u00a0%`;

/** A word for a small number. @param {number} count */
export const numberWord = (count) =>
  ["no", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten"][count] ?? String(count);

/** With a large first letter. @param {string} text */
export const sentence = (text) => text.charAt(0).toUpperCase() + text.slice(1);
