"use strict";
// Brings a device's page up to date: the page is fetched again, and its middle takes the place of the old one.
(() => {
  const EVERY_MS = 2000;
  const GIVE_UP_MS = 4000;
  const lost = document.getElementById("lost");

  async function refresh() {
    try {
      const answer = await fetch(location.href, { cache: "no-store", signal: AbortSignal.timeout(GIVE_UP_MS) });
      if (answer.redirected) {
        location.assign(answer.url);
        return;
      }
      const fresh = new DOMParser().parseFromString(await answer.text(), "text/html").getElementById("live");
      if (!fresh) throw new Error(String(answer.status));
      document.getElementById("live").replaceWith(document.adoptNode(fresh));
      lost.hidden = true;
    } catch {
      lost.hidden = false;
    }
    setTimeout(refresh, EVERY_MS);
  }

  setTimeout(refresh, EVERY_MS);
})();
