"use strict";
// Keeps a page up to date. Text goes in as text, never as markup: names come from devices.
(() => {
  const GIVE_UP_MS = 5000;
  const lost = document.getElementById("lost");
  let source = null;
  let seenAt = Date.now();
  let refreshedAt = Date.now();
  let busy = false;

  function setText(element, text) {
    if (element.textContent !== text) element.textContent = text;
  }

  function setAttribute(element, name, value) {
    if (element.getAttribute(name) !== value) element.setAttribute(name, value);
  }

  function show(picture) {
    for (const badge of document.querySelectorAll("[data-status]")) {
      setAttribute(badge, "class", `badge ${picture.status}`);
      setText(badge, picture.status);
    }
    for (const element of document.querySelectorAll("[data-text]")) {
      const text = picture.texts[element.dataset.text];
      if (text !== undefined) setText(element, text);
    }
    for (const element of document.querySelectorAll("[data-tone]")) setAttribute(element, "class", `tone ${picture.status}`);
    for (const path of document.querySelectorAll("[data-path]")) {
      const drawn = picture.paths[path.dataset.path];
      if (drawn !== undefined) setAttribute(path, "d", drawn);
    }
    const reasons = document.getElementById("reasons");
    if (reasons && [...reasons.children].map((each) => each.textContent).join("\n") !== picture.reasons.join("\n")) {
      reasons.replaceChildren(...picture.reasons.map((reason) => {
        const item = document.createElement("li");
        item.textContent = reason;
        return item;
      }));
    }
  }

  // The part of a page that the server has to draw: fetched again, while nobody is busy in it.
  async function refresh() {
    const old = document.getElementById("live");
    if (!old || !old.dataset.refresh || busy || Date.now() - refreshedAt < Number(old.dataset.refresh)) return;
    if (!document.getSelection().isCollapsed) return;
    busy = true;
    try {
      const answer = await fetch(location.href, { cache: "no-store", signal: AbortSignal.timeout(GIVE_UP_MS) });
      if (answer.redirected) {
        location.assign(answer.url);
        return;
      }
      const fresh = new DOMParser().parseFromString(await answer.text(), "text/html").getElementById("live");
      if (!fresh) return;
      const focused = old.contains(document.activeElement) ? document.activeElement.id : "";
      const scrolled = [...old.querySelectorAll("pre")].map((each) => each.scrollTop);
      old.replaceChildren(...document.adoptNode(fresh).childNodes);
      old.querySelectorAll("pre").forEach((each, index) => { each.scrollTop = scrolled[index] || 0; });
      if (focused) document.getElementById(focused)?.focus({ preventScroll: true });
    } catch {
      // the stream says whether the appliance is there
    } finally {
      refreshedAt = Date.now();
      busy = false;
    }
  }

  // The browser has given the stream up: was it logged out, or is the appliance away?
  async function askAgain() {
    try {
      const answer = await fetch(location.href, { cache: "no-store", signal: AbortSignal.timeout(GIVE_UP_MS) });
      if (answer.redirected) {
        location.assign(answer.url);
        return;
      }
    } catch {
      // not there
    }
    setTimeout(follow, 1000);
  }

  function follow() {
    if (document.hidden || (source && source.readyState !== EventSource.CLOSED)) return;
    source = new EventSource("/ui/live");
    source.onmessage = (event) => {
      seenAt = Date.now();
      lost.hidden = true;
      show(JSON.parse(event.data));
      refresh();
    };
    source.onerror = () => {
      if (source && source.readyState === EventSource.CLOSED) askAgain();
    };
  }

  // After an enrolment: the new run of the appliance does not know this session, and that is how it is known.
  async function untilRestarted() {
    try {
      const answer = await fetch("/ui/", { cache: "no-store", signal: AbortSignal.timeout(GIVE_UP_MS) });
      if (answer.redirected) {
        location.assign(answer.url);
        return;
      }
    } catch {
      // between the two
    }
    setTimeout(untilRestarted, 1000);
  }

  if (document.getElementById("restarting")) {
    setTimeout(untilRestarted, 1000);
    return;
  }
  document.addEventListener("visibilitychange", () => {
    if (!document.hidden) {
      seenAt = Date.now();
      follow();
    } else if (source) {
      source.close();
    }
  });
  setInterval(() => {
    if (!document.hidden && Date.now() - seenAt > GIVE_UP_MS) lost.hidden = false;
  }, 1000);
  follow();
})();
