/** Tabs, as the ARIA Authoring Practices describe them; the address's fragment names the one that is open. */

/**
 * Set the tabs up and open the one that the address names.
 * @param {Record<string, () => void>} opened called when a view is opened, by its name
 */
export function startTabs(opened) {
  const tabs = [...document.querySelectorAll('[role="tab"]')];
  const open = (tab, takeFocus) => {
    for (const other of tabs) {
      const chosen = other === tab;
      other.setAttribute("aria-selected", String(chosen));
      other.tabIndex = chosen ? 0 : -1;
      document.getElementById(other.getAttribute("aria-controls")).hidden = !chosen;
    }
    if (takeFocus) tab.focus();
    const name = nameOf(tab);
    history.replaceState(null, "", `#${name}`);
    opened[name]?.();
  };
  for (const tab of tabs) {
    tab.addEventListener("click", () => open(tab, false));
    tab.addEventListener("keydown", (event) => {
      const next = neighbour(tabs, tab, event.key);
      if (next) {
        event.preventDefault();
        open(next, true);
      }
    });
  }
  open(tabs.find((tab) => `#${nameOf(tab)}` === location.hash) ?? tabs[0], false);
}

/** Whether a view is open. @param {string} name */
export const isOpen = (name) => !document.getElementById(`view-${name}`).hidden;

const nameOf = (tab) => tab.id.replace("tab-", "");

function neighbour(tabs, tab, key) {
  const at = tabs.indexOf(tab);
  const to = { ArrowRight: at + 1, ArrowLeft: at - 1, Home: 0, End: tabs.length - 1 }[key];
  return to === undefined ? null : tabs[(to + tabs.length) % tabs.length];
}
