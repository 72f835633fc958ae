/** Loads the page's modules. Where one of them, or the first request, is lost on the way, the page is loaded again. */
const AGAIN_MS = 1000;

try {
  await import("./main.js");
} catch (failure) {
  console.error(failure);
  const notice = document.getElementById("notice");
  notice.textContent = "The page did not arrive whole; it is loaded again as soon as the explorer answers.";
  notice.classList.add("bad");
  notice.hidden = false;
  do await new Promise((done) => setTimeout(done, AGAIN_MS));
  while (!(await explorerAnswers()));
  location.reload();
}

async function explorerAnswers() {
  return fetch("/").then((reply) => reply.ok).catch(() => false);
}
